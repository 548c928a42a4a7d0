"""The transformers class that config.json names, checked for text generation."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness import UsageError, cache_dir, digest_value, write_text
from harness.internals import hash_download

OTHER_TOOL_ADVICE = "evaluate it with its own tools and gate the scores: harness gate BASE CANDIDATE"


def load_config(path: str | Path) -> Any:
    """Load the configuration of a folder. Raises UsageError if transformers cannot read it."""
    import transformers

    try:
        return transformers.AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a class of transformers raises at sizes that it was not made for
        told = " ".join(str(error).split())[:300]
        raise UsageError(f'model "{path}": its config.json is invalid: {told}') from None


def find_class(path: str | Path, config: Any) -> Any:
    """Return the model class that a folder's config.json names.

    It reads the whole model, vision towers included. Without a name, or with one that transformers does not have, it is
    the causal class of the configuration. Raises UsageError if several classes are named, or if the class does not
    continue a text: its forward needs other inputs, or it cannot generate.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    if not isinstance(config.architectures, (list, type(None))):
        raise UsageError(f'model "{path}": its config.json has "architectures" that are not a list of classes')
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
    """Raise UsageError if a folder's class cannot generate text.

    A folder that passed once needs no transformers again.
    """
    passed = cache_dir() / "classes" / digest_value([version("transformers"), hash_download(folder / "config.json")])
    if not passed.exists():
        find_class(folder, load_config(folder))
        write_text(passed, "")


def _find_text_error(made: Any) -> str | None:
    """Return the reason a class cannot continue text, or None."""
    takes = inspect.signature(made.forward).parameters
    if made.main_input_name != "input_ids":
        return f"reads {made.main_input_name}, not text"
    if "decoder_input_ids" in takes:
        return "is an encoder-decoder, which does not continue its prompt"
    return None if made.can_generate() else "does not generate text"


def language_model_name(model: Any) -> str | None:
    """Return the name of a multi-part model's text part.

    For instance "model.language_model". None for a model of text alone, where a text goes through all layers.
    """
    if model.config.get_text_config() is model.config:
        return None
    decoder = model.get_decoder()
    return next((name for name, module in model.named_modules() if module is decoder), None) or None
