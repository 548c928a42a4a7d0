"""Write a LoRA's scaling into its matrices, so that alpha/r is 1 and no server can get it wrong.

Imports torch: import this module inside functions.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

from harness import write_text
from harness_lora.files import CONFIG, WEIGHTS, read_config, split_name

SCALES = ("use_rslora", "rank_pattern", "alpha_pattern")  # what servers have got wrong
PAIRS = {"lora_A": "lora_B", "lora_embedding_A": "lora_embedding_B"}


def fold(adapter: Path) -> bool:
    """Make a plain LoRA of an adapter with rslora or patterns, and say whether there was anything to do.

    B (out, r) and its bias become s times as large, rounded once to their dtype, and ranks are filled up with zeros to
    the largest; s·B·A stays what it was. DoRA stays DoRA: its norm is no scaling. An adapter with other parts, or with
    blocks that a longer rank would move, is left as it is.
    """
    import torch
    from peft.utils.other import get_pattern_key
    from safetensors.torch import load_file, save_file

    config = read_config(adapter)
    if not any(getattr(config, name) for name in SCALES) or config.target_parameters or config.use_bdlora:
        return False
    tensors = load_file(adapter / WEIGHTS)
    modules: dict[str, dict[str, str]] = defaultdict(dict)
    for key in tensors:
        module, part = split_name(key)
        modules[module][part] = key
    pairs = [(m, parts[a], parts[b]) for m, parts in modules.items() for a, b in PAIRS.items() if a in parts]
    if any(tensors[key].dim() != 2 for _, *keys in pairs for key in keys):
        return False
    rank = max(len(tensors[a]) for _, a, _ in pairs)
    for module, a, b in pairs:
        r, pattern = len(tensors[a]), get_pattern_key(config.alpha_pattern.keys(), module)
        alpha = config.alpha_pattern.get(pattern, config.lora_alpha)
        scale, missing = float(alpha / (math.sqrt(r) if config.use_rslora else r)), rank - r
        bias = modules.get(f"{module}.bias", {}).get("lora_bias")
        for key in filter(None, (b, bias)):
            tensors[key] = (tensors[key].double() * scale).to(tensors[key].dtype)
        for key, shape, dim in ((a, (missing, tensors[a].shape[1]), 0), (b, (len(tensors[b]), missing), 1)):
            tensors[key] = torch.cat([tensors[key], tensors[key].new_zeros(shape)], dim).contiguous()
    told = json.loads((adapter / CONFIG).read_text("utf-8"))
    told |= {"r": rank, "lora_alpha": rank, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
    save_file(tensors, adapter / WEIGHTS, {"format": "pt"})
    write_text(adapter / CONFIG, json.dumps(told, indent=2, sort_keys=True) + "\n")
    return True
