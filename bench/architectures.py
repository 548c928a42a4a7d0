"""Try every class of the installed transformers' auto classes, and write docs/reference/architectures.md.

A class that continues texts is built small and random, others are refused by what they are. Scores against a plain
forward of each pair, greedy answers against `generate`, the log-probabilities that are trained
on against the model's own, the logits of LoRA on its base against those of the merged model, and these against what
plain transformers reads from the export. Adapters have the default targets.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.child import ROOT
from bench.page import format_table

PAGE = ROOT / "docs/reference/architectures.md"
PAIRS = [
    (f"Question {i % 3}, behind a beginning in common: what is {i}?\nAnswer:", f" {word}")
    for i, word in enumerate(("one", "one of two", "three", "a word and some more of them", "x", "yes"))
]
PROMPTS = ["Hello there", "Once", "One and two and three and so on, until the end of it"]
WHY = "prompts are not shared, each row is computed whole: "
NEW = 12  # tokens of an answer
NATS, LOGITS = 1e-3, 1e-2  # most that scores, per token, and logits may be apart in float32
SMALL = 40_000_000  # parameters; what has more was not built small
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "pronunciation_embed_dim"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_ff", "decoder_ffn_dim", "dim_ff"), 96),
    **dict.fromkeys(("encoder_ffn_dim", "ffn_hidden_size", "expert_ffn_hidden_size", "emb_dim", "lru_width"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_decoder_layers",), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads",), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "dim_head", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim"), 16),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim", "swa_head_dim"), 16),
    **dict.fromkeys(("index_head_dim", "kv_lora_rank", "q_lora_rank", "hidden_size_per_layer_input"), 32),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 512),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts", "zero_expert_num"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("num_experts_per_tok",), 2),
    **dict.fromkeys(("n_group", "topk_group"), 1),
    **dict.fromkeys(("initializer_range", "init_std"), 0.2),  # far enough from uniform that choices are no ties
    **dict.fromkeys(("depth", "num_encoder_layers"), 2),
    **dict.fromkeys(("out_hidden_size", "projector_dim", "output_dim", "text_hidden_size", "projection_dim"), 64),
    "encoder_layers": 2,
    "is_decoder": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4},
    **{"image_size": 28, "patch_size": 14},
}
LAYERS = {"layer_types": ["linear_attention", "full_attention"]}
NAMED: dict[str, dict[str, Any]] = {  # by class: what else its configuration wants to be small, or to be built at all
    **dict.fromkeys(("BailingHybridForCausalLM", "KimiLinearForCausalLM", "Qwen3NextForCausalLM"), LAYERS),
    **dict.fromkeys(("Qwen3_5ForCausalLM", "Qwen3_5MoeForCausalLM", "Qwen4ExpForCausalLM"), LAYERS),
    "BambaForCausalLM": {"attn_layer_indices": [1], "mamba_chunk_size": 16},
    "CodeGenForCausalLM": {"rotary_dim": 8},
    "Dots1ForCausalLM": {"n_shared_experts": 1, "first_k_dense_replace": 1},
    "GPTJForCausalLM": {"rotary_dim": 8},
    "GPTNeoForCausalLM": {"attention_types": [[["global", "local"], 1]]},
    "Gemma3ForConditionalGeneration": {"vision_config": VISION, "mm_tokens_per_image": 4},
    "Gemma4ForCausalLM": {"vocab_size_per_layer_input": 261},
    "GraniteMoeHybridForCausalLM": {"layer_types": ["mamba", "attention"]},
    "Inkling2ForCausalLM": {"unpadded_vocab_size": 261},
    "Inkling2LoopForCausalLM": {"unpadded_vocab_size": 261},
    "JambaForCausalLM": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "Lfm2MoeForCausalLM": {"layer_types": ["conv", "full_attention"]},
    "LongcatFlashForCausalLM": {"moe_topk": 2},
    "Mamba2ForCausalLM": {"num_heads": 8},
    "RecurrentGemmaForCausalLM": {"num_hidden_layers": 3},
    "ReformerModelWithLMHead": {"axial_pos_embds_dim": [32, 32], "axial_pos_shape": [16, 32]},
    "RoCBertForCausalLM": {"pronunciation_vocab_size": 32, "shape_vocab_size": 32, "shape_embed_dim": 32},
    "XmodForCausalLM": {"default_language": "en_XX"},
    "Zamba2ForCausalLM": {"layer_types": ["mamba", "hybrid"], "hybrid_layer_ids": [1]},
    "ZambaForCausalLM": {"num_hidden_layers": 3, "layer_types": ["mamba", "hybrid", "hybrid"]},
    "ZayaForCausalLM": {"num_experts_per_tok": 1},
}


@dataclass
class Row:
    """What was found of one class; differences are the largest, None where nothing was compared."""

    name: str
    kind: str = ""  # "shares prefixes", "plain", "refused: …" or "not built: …"
    scores: float | None = None  # nats per token
    answers: int | None = None  # equal to those of `generate`, of PROMPTS
    head: float | None = None  # nats, of TRL's fused head; infinite where it raises
    loss: float | str | None = None  # nats, as it is trained, or why it is not
    merged: float | str | None = None  # logits, or why there is no merge
    exported: float | None = None  # logits
    note: str = ""

    @property
    def right(self) -> bool:
        """Return whether a class that is not refused does what it must."""
        if self.kind.startswith(("refused", "not built")):
            return True
        logits = [self.merged, self.exported] if not isinstance(self.merged, str) else []
        return (
            self.scores is not None
            and self.scores <= NATS
            and self.answers == len(PROMPTS)
            and (isinstance(self.loss, str) or (self.loss is not None and self.loss <= NATS))
            and all(n is not None and n <= LOGITS for n in logits)
        )


def main() -> int:
    """Return 0 when every class is right or refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("classes", nargs="*", help="names of classes; all without, and then the page is written")
    args = parser.parse_args()
    begun = time.monotonic()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in list_classes():
            if not args.classes or name in args.classes:
                with contextlib.redirect_stdout(sys.stderr):  # some classes print
                    rows.append(check(name, Path(folder) / name))
                print(_format_line(rows[-1]), flush=True)
    if not args.classes:
        PAGE.write_text(format_page(rows, time.monotonic() - begun), "utf-8")
    return int(not all(row.right for row in rows))


def list_classes() -> list[str]:
    """Return the name of every class that an auto class of transformers knows."""
    import transformers
    from transformers.models.auto import modeling_auto

    named = {k: v for k, v in vars(modeling_auto).items() if k.startswith("MODEL_") and k.endswith("_MAPPING_NAMES")}
    found = (name for names in named.values() for name in names.values())
    every = {one for name in found for one in ([name] if isinstance(name, str) else name)}
    return sorted(name for name in every if hasattr(transformers, name))


def find_refusal(name: str) -> str | None:
    """Return why a class is refused, as a person reads it, or None where it continues texts."""
    import transformers

    from harness.errors import UsageError
    from harness_hf.classes import find_class

    made = getattr(transformers, name)
    try:
        find_class("", transformers.PreTrainedConfig(architectures=[name]))
    except UsageError as error:
        return f"{error}".partition(f"{made.__name__} ")[2].partition(";")[0]
    return None


def check(name: str, folder: Path, **more: Any) -> Row:
    """Build a class small and random in a folder, and hold all that is done with it to a plain forward."""
    import torch

    from harness.errors import UsageError
    from harness.records.models import ModelRef
    from harness_hf import load

    row = Row(name)
    if why := find_refusal(name):
        row.kind = f"refused: {why}"
        return row
    try:
        build(name, folder / "base", **more)
    except (Exception, SystemExit) as error:
        row.kind = f"not built: {_format_error(error)}"
        return row
    with torch.random.fork_rng(devices=[]):
        try:
            with load([ModelRef("base", str(folder / "base"))], dtype="float32", device="cpu") as [subject]:
                row.scores = _compare_scores(subject)
                row.answers, told = _compare_answers(subject)
                row.kind = "plain" if subject.scorer.why_plain else "shares prefixes"
                notes = [note.partition(": ")[2].removeprefix(WHY) for note in subject.notes]
                row.note = "; ".join(filter(None, [*notes, told]))
        except UsageError as error:
            row.kind = (
                f"refused: {_format_error(error, folder).partition(f'{name} ')[2] or _format_error(error, folder)}"
            )
            return row
        except Exception as error:  # a mistake, of ours or of transformers
            row.note = f"{type(error).__name__}: {_format_error(error)}"
            return row
        try:
            row.head, row.loss = _compare_losses(folder / "base")
        except UsageError as error:
            row.loss = f"refused: {_format_error(error, folder)}"
        try:
            row.merged, row.exported = _merge(folder)
        except UsageError as error:
            row.merged = f"refused: {_format_error(error, folder)}"
        except Exception as error:
            row.merged, row.note = None, f"{type(error).__name__}: {_format_error(error)}"
    return row


def build(name: str, folder: Path, **more: Any) -> None:
    """Write a small random model of a class, with the tiny model's tokenizer."""
    import torch
    import transformers

    from harness_hf.models import quiet_loading
    from harness_hf.tiny import _build_byte_tokenizer

    tokenizer = _build_byte_tokenizer()
    made = getattr(transformers, name)
    config = made.config_class(**_make_small_config(made.config_class, len(tokenizer)) | NAMED.get(name, {}) | more)
    with torch.device("meta"):
        size = sum(p.numel() for p in made(config).parameters())
    if size > SMALL:
        raise ValueError(f"{size:,} parameters at the smallest")
    with torch.random.fork_rng(devices=[]), quiet_loading():
        torch.manual_seed(0)
        made(config).eval().save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _make_small_config(config_class: Any, vocabulary: int) -> dict[str, Any]:
    """Return what makes a configuration small, and those it is made of."""
    default = config_class()
    known = default.to_dict()
    sizes = {key: value for key, value in (SIZES | {"vocab_size": vocabulary}).items() if key in known}
    if "kv_lora_rank" in known:  # latent attention has a key for every head
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    rope = known.get("rope_parameters")
    if isinstance(rope, dict) and "rope_type" in rope and "text" in (config_class.model_type or ""):
        sizes["rope_parameters"] = {**rope, "mrope_section": [2, 3, 3]}  # beside pictures: half a head of 16 numbers
    inner = {part: type(getattr(default, part, None)) for part in config_class.sub_configs}
    return sizes | {
        part: {**({"model_type": its.model_type} if its.model_type else {}), **_make_small_config(its, vocabulary)}
        for part, its in inner.items()
        if hasattr(its, "sub_configs")
    }


def _compare_scores(subject: Any) -> float:
    import torch

    apart = []
    for found, (context, target) in zip(subject.logprobs(PAIRS), subject.tokens.encode_pairs(PAIRS), strict=True):
        ids = torch.tensor([context + target])
        with torch.inference_mode():
            logits = subject.model(input_ids=ids, use_cache=False).logits[0, len(context) - 1 : -1]
        total = logits.double().log_softmax(-1).gather(1, torch.tensor(target)[:, None]).sum()
        apart.append(abs(found.total - float(total)) / len(target))
    return max(apart)


def _compare_answers(subject: Any) -> tuple[int, str]:
    """Count the answers that are those of `generate`, or of plain forwards where that gives others; and say so."""
    answers = subject.generate(PROMPTS, max_new_tokens=NEW)
    told = ""
    for how in ({"use_cache": True}, {"use_cache": False}):
        try:
            equal = sum(a == _answer_by_generate(subject, p, **how) for p, a in zip(PROMPTS, answers, strict=True))
        except Exception as error:
            told = told or f"`generate` raises {type(error).__name__}"
            continue
        if equal == len(PROMPTS):
            return equal, told
        told = f"{len(PROMPTS) - equal} answers of `generate` are not those of plain forwards"
    return sum(a == _answer_by_forward(subject, p) for p, a in zip(PROMPTS, answers, strict=True)), told


def _answer_by_forward(subject: Any, prompt: str) -> str:
    """Answer with a plain forward of the whole for every token."""
    import torch

    [ids] = subject.tokens.encode_prompts([prompt])
    begun = len(ids)
    with torch.inference_mode():
        while len(ids) < begun + NEW:
            token = int(subject.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if token in subject.tokens.stop_ids:
                break
            ids.append(token)
    return str(subject.tokens.decode(ids[begun:]))


def _answer_by_generate(subject: Any, prompt: str, use_cache: bool) -> str:
    """Answer as `generate` does with nothing but greedy choices."""
    import torch
    from transformers import GenerationConfig

    ids = torch.tensor(subject.tokens.encode_prompts([prompt]))
    stops = sorted(subject.tokens.stop_ids)
    how = GenerationConfig(max_new_tokens=NEW, do_sample=False, eos_token_id=stops, pad_token_id=0, use_cache=use_cache)
    model = subject.model
    model.generation_config = GenerationConfig()  # what a class asks for by default beside
    with torch.inference_mode():
        made = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=how)
    new = made[0, ids.shape[1] :].tolist()
    ended = next((i for i, token in enumerate(new) if token in stops), len(new))
    return str(subject.tokens.decode(new[:ended]))


def _compare_losses(base: Path) -> tuple[float, float]:
    """Return how far what is trained on is from the model's own, by TRL's fused head and as it is trained here."""
    import torch
    from trl.trainer.utils import add_fused_lm_head

    from harness_hf.models import load_model, load_tokenizer
    from harness_sft.likelihood import choose_loss, logprob_mismatch

    ids = torch.tensor([load_tokenizer(base)(PROMPTS[-1])["input_ids"]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    model = load_model(base, dtype="float32", device="cpu")
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    head, _ = logprob_mismatch(model, batch)
    choose_loss(model, batch)
    return head, logprob_mismatch(model, batch)[0]


def _merge(folder: Path) -> tuple[float, float]:
    """Return how far the merged logits are from the adapter's, and those of the export from the merged."""
    import torch
    import transformers

    from harness.errors import UsageError
    from harness.records.models import ModelRef
    from harness_export import safetensors
    from harness_hf.models import load_model, load_tokenizer, quiet_loading
    from harness_lora import lora

    base, adapter, merged, out = (folder / part for part in ("base", "adapter", "merged", "out"))
    ids = torch.tensor([load_tokenizer(base)(PROMPTS[-1])["input_ids"]])
    lora(lora_dropout=0.0).check_targets(str(base))
    try:
        model = _make_adapted_model(base, ids)
        with torch.inference_mode():
            wanted = model(input_ids=ids, use_cache=False).logits
    except Exception as error:
        raise UsageError(f"PEFT cannot adapt it: {_format_error(error)}") from None
    model.save_pretrained(adapter)
    merged.mkdir()
    lora().merge(str(base), adapter, merged, variant="original")
    safetensors(ModelRef("merged", str(merged)), out)
    with torch.inference_mode(), quiet_loading():
        ours = load_model(merged, dtype="float32", device="cpu")(input_ids=ids, use_cache=False).logits
        named = json.loads((out / "config.json").read_text("utf-8"))["architectures"][0]
        plain = getattr(transformers, named).from_pretrained(out, dtype=torch.float32).eval()
        theirs = plain(input_ids=ids, use_cache=False).logits
    return float((ours - wanted).abs().max()), float((theirs - ours).abs().max())


def _make_adapted_model(base: Path, ids: Any) -> Any:
    """Put a LoRA on all linears, and move what a training would move."""
    import torch
    from peft import get_peft_model

    from harness_hf.models import load_model, quiet_loading
    from harness_lora import lora, restrict_targets

    with quiet_loading(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT mends what it warns of
        whole = load_model(base, dtype="float32", device="cpu")
        model = get_peft_model(whole, restrict_targets(lora(r=4, lora_dropout=0.0).peft_config(), whole)).eval()
    model(input_ids=ids, use_cache=False).logits.float().logsumexp(-1).sum().backward()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name and weight.grad is not None and weight.grad.any():
                weight.normal_(std=0.1)
    return model


COLUMNS = f"""Columns: how log-probabilities are computed, and how far they are from a plain forward of each pair;
greedy answers that equal `generate`'s, or those of plain forwards where the last column says so, of {len(PROMPTS)}; how
far, in nats, the log-probabilities that are trained on are from the model's own, and those of TRL's fused head where
they are not trained on; how far the logits of the merged model are from those of the LoRA on its base, and those that
plain transformers reads from the export from those of the merged model."""


def format_page(rows: Sequence[Row], seconds: float) -> str:
    """Write the page: how many, the table, and the classes that are refused or were not built."""
    import torch
    import transformers

    tried = [row for row in rows if not row.kind.startswith("not built")]
    used = [row for row in tried if not row.kind.startswith("refused")]
    shares = sum(row.kind == "shares prefixes" for row in used)
    where = f"transformers {transformers.__version__}, torch {torch.__version__}, float32 on the CPU"
    others = sum(row.head is not None and row.head > NATS for row in used)
    parts = [
        "# Architectures",
        f"Written by `make architectures` in {seconds / 60:.0f} minutes ({where}); to change a line, run it again.",
        f"Of {len(rows)} classes that transformers' auto classes know, {len(tried) - len(used)} are refused in one "
        f"line, because they do not continue a text or cannot be run on one. {len(used)} were built small and random: "
        f"{shares} share prefixes, {len(used) - shares} are computed whole. {others} are trained from their own "
        f"logits. {len(rows) - len(tried)} were not built.",
        COLUMNS,
        format_table(
            ["class", "scores", "nats per token apart", "answers", "loss", "merged", "exported", ""],
            [
                *_make_lines_by_kind([row for row in used if _is_plain(row)]),
                *(_format_cells(row) for row in used if not _is_plain(row)),
            ],
        ),
        "## Refused",
        "Score their rows with their own tools, and gate them: `harness gate BASE CANDIDATE`.",
        format_table(["why", "classes"], _group_by_reason([row for row in tried if row not in used])),
        "## Not built",
        format_table(["class", "why"], [[row.name, row.kind.partition(": ")[2]] for row in rows if row not in tried]),
    ]
    return "\n\n".join(parts) + "\n"


def _is_plain(row: Row) -> bool:
    """Return whether all that there is to say of a class are numbers within the limits."""
    return row.right and not row.note and isinstance(row.merged, float) and (row.head or 0.0) <= NATS


def _make_lines_by_kind(rows: Sequence[Row]) -> list[list[str]]:
    """Return a line for the classes of each kind, with the largest differences among them."""
    found = []
    for kind in dict.fromkeys(row.kind for row in rows):
        own = [row for row in rows if row.kind == kind]
        names = ", ".join(row.name for row in own)
        worst = [max(getattr(row, key) for row in own) for key in ("scores", "loss", "merged", "exported")]
        scores, *rest = map(_show, worst)
        found.append([f"{len(own)} classes: {names}", kind, scores, f"{len(PROMPTS)} of {len(PROMPTS)}", *rest, ""])
    return found


def _group_by_reason(rows: Sequence[Row]) -> list[list[str]]:
    """Return each reason and the classes that were refused for it, the most frequent first."""
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row.kind.partition(": ")[2], []).append(row.name)
    return [[why, ", ".join(names)] for why, names in sorted(found.items(), key=lambda item: -len(item[1]))]


def _format_answers(row: Row) -> str:
    return "" if row.answers is None else f"{row.answers} of {len(PROMPTS)}"


def _format_cells(row: Row) -> list[str]:
    head = f" (TRL's head {'raises' if row.head == math.inf else f'{row.head:.2g}'})" if (row.head or 0) > NATS else ""
    loss, answers = _show(row.loss) + head, _format_answers(row)
    return [row.name, row.kind, _show(row.scores), answers, loss, _show(row.merged), _show(row.exported), row.note]


def _format_line(row: Row) -> str:
    return ("" if row.right else "WRONG ") + " | ".join(_format_cells(row))


def _show(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.1e}"


def _format_error(error: BaseException, folder: Path | None = None) -> str:
    told = " ".join(str(error).split()).replace(f"{folder}/", "").replace("|", "/")
    return told[:160] or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
