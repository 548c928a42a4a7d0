"""Which class of transformers a folder's config.json names, and what must hold of it to answer texts."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness import UsageError, cache_dir, digest_value, write_text
from harness.internals import hash_download

OTHER_TOOL_ADVICE = "evaluate it with its own tools and gate the scores: harness gate BASE CANDIDATE"


def load_config(path: str | Path) -> Any:
    """Return the configuration in a folder; raises UsageError where transformers cannot read it."""
    import transformers

    try:
        return transformers.AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a class of transformers raises at sizes that it was not made for
        told = " ".join(str(error).split())[:300]
        raise UsageError(f'model "{path}": its config.json is invalid: {told}') from None


def find_class(path: str | Path, config: Any) -> Any:
    """Return the class that reads a model as its config.json names it: all of it, towers for pictures included.

    Without a name, or with one that transformers does not have, it is the causal class of that configuration. Raises
    UsageError where the class does not continue a text: its forward needs something else, or it has no such answers.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    names = [*dict.fromkeys(config.architectures or ())]
    if len(names) > 1:
        raise UsageError(
            f'model "{path}": its config.json names {" and ".join(names)}; keep only the class it was saved as'
        )
    made = getattr(transformers, names[0], None) if names else None
    if not (inspect.isclass(made) and issubclass(made, transformers.PreTrainedModel)):
        made = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
        made = made[0] if isinstance(made, tuple) else made
    if made is None:
        name = names[0] if names else type(config).__name__
        raise UsageError(f'model "{path}": {name} does not generate text; {OTHER_TOOL_ADVICE}')
    if why := _find_text_error(made):
        raise UsageError(f'model "{path}": {made.__name__} {why}; {OTHER_TOOL_ADVICE}')
    return made


def config_of_class(made: Any, config: Any) -> Any:
    """Return the configuration that a class is built of: that of the text alone for one that reads nothing else."""
    text = config.get_text_config()
    return text if made.config_class is type(text) else config


def check_class(folder: Path) -> None:
    """Raise UsageError where a folder's class answers no texts; what passed once needs no transformers again."""
    passed = cache_dir() / "classes" / digest_value([version("transformers"), hash_download(folder / "config.json")])
    if not passed.exists():
        find_class(folder, load_config(folder))
        write_text(passed, "")


def _find_text_error(made: Any) -> str | None:
    """Return why a class cannot be asked to continue a text, or None."""
    takes = inspect.signature(made.forward).parameters
    if made.main_input_name != "input_ids":
        return f"reads {made.main_input_name}, not text"
    if "decoder_input_ids" in takes:
        return "is an encoder-decoder, which does not continue its prompt"
    return None if made.can_generate() else "does not generate text"


def language_model_name(model: Any) -> str | None:
    """Return the name of the part that reads text in a model of several parts, such as "model.language_model".

    None of a model that is nothing else, all of whose layers a text goes through.
    """
    if model.config.get_text_config() is model.config:
        return None
    decoder = model.get_decoder()
    return next((name for name, module in model.named_modules() if module is decoder), None) or None
