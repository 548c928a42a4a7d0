"""A check of a model made elsewhere, in a separate process.

Its small files may loop, explode or be broken. Checked are the configuration on the meta device against the headers of
the weights, the generation settings, the tokenizer and the chat template.
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import UsageError, cache_dir, digest_value, write_text
from harness.internals import format_duration, memory_error, read_safetensors, subprocess_call, weight_files
from harness_hf import sources

PROBE_TIMEOUT_S = 120.0  # for all of it, imports included, on a busy machine
RENDER_TIMEOUT_S = 5  # seconds of a few short messages
MAX_TEMPLATE_CHARS = 1_000_000  # characters of them
EXTRA_BYTES = 4 << 30  # bytes beyond what the libraries take
MAX_SIZE_RATIO = 2  # tables that are computed count as parameters, and are in no file
PROBE_MESSAGE = {"role": "user", "content": "One?"}
PROBE_CHATS = (
    [PROBE_MESSAGE],
    [PROBE_MESSAGE, {"role": "assistant", "content": "1"}, {"role": "user", "content": "Two?"}],
)


def check_folder(path: str) -> None:
    """Raise UsageError if a model cannot be built, loaded or rendered.

    A folder that passed once is not checked again.
    """
    folder = Path(path)
    headers = [dict(read_safetensors(folder / name).tensors) for name in weight_files(folder)]
    passed = cache_dir() / "probed" / digest_value([sources.digest_surroundings(folder), headers])
    if passed.exists():
        return
    told = subprocess_call.call_module(
        "harness_hf.probe", {"path": path}, f'model "{path}": cannot be checked', seconds=PROBE_TIMEOUT_S
    )
    if problem := told["problem"]:
        raise UsageError(f'model "{path}": {problem}')
    write_text(passed, "")


def probe_folder(path: str) -> Mapping[str, Any]:
    """Find the problem with a model's folder. The result's "problem" is empty if there is none."""
    from harness_hf.models import format_one_line, quiet_loading

    for what, step in (
        ("config.json is invalid", _find_config_size_error),
        ("generation_config.json is invalid", _find_generation_config_error),
        ("chat template cannot be rendered", _find_template_error),
    ):
        try:
            with _limit_memory(), quiet_loading():
                problem = step(path)
        except UsageError as error:
            return {"problem": str(error).removeprefix(f'model "{path}": ')}
        except Exception as error:
            problem = f"its {what}: {'it needs too much memory' if memory_error(error) else format_one_line(error)}"
        if problem:
            return {"problem": problem}
    return {"problem": ""}


def _find_config_size_error(path: str) -> str:
    from transformers import AutoConfig

    from harness_hf.models import build_skeleton

    config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    if getattr(config, "quantization_config", None):  # its files hold other shapes
        return ""
    model = build_skeleton(path)
    model.tie_weights()
    implied, held = sum(p.numel() for p in model.parameters()), sources.count_parameters(Path(path))
    return (
        f"its config.json implies {implied:,} parameters, but its files hold {held:,}"
        if implied > MAX_SIZE_RATIO * held
        else ""
    )


def _find_generation_config_error(path: str) -> str:
    from transformers import GenerationConfig

    if (Path(path) / "generation_config.json").is_file():
        GenerationConfig.from_pretrained(path, local_files_only=True)
    return ""


def _find_template_error(path: str) -> str:
    from harness_hf.models import load_tokenizer

    if not (tokenizer := load_tokenizer(path)).chat_template:
        return ""
    with _limit_rendering_time():
        for talk in PROBE_CHATS:
            for opened in (True, False):
                text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=opened)
                if len(text) > MAX_TEMPLATE_CHARS:
                    return f"its chat template renders {len(text):,} characters from a few words"
    return ""


@contextmanager
def _limit_rendering_time() -> Iterator[None]:
    def late(*_: object) -> None:
        raise UsageError(f"its chat template takes over {format_duration(RENDER_TIMEOUT_S)} to render a few words")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(RENDER_TIMEOUT_S)
    used = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    try:
        # One step of a template may be endless too, and lets no Python run: then the system ends the process.
        with _limit_resource(resource.RLIMIT_CPU, used + 2 * RENDER_TIMEOUT_S):
            yield
    finally:
        signal.alarm(0)


@contextmanager
def _limit_memory() -> Iterator[None]:
    """Limit the memory of a step, where the system can."""
    try:
        used = int(Path("/proc/self/statm").read_text("utf-8").split()[0]) * resource.getpagesize()
    except OSError:
        yield
        return
    before, _ = resource.getrlimit(resource.RLIMIT_AS)
    with _limit_resource(
        resource.RLIMIT_AS, used + EXTRA_BYTES if before == resource.RLIM_INFINITY else min(used + EXTRA_BYTES, before)
    ):
        yield


@contextmanager
def _limit_resource(kind: int, most: int) -> Iterator[None]:
    """Limit a resource of this process while a block runs."""
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


if __name__ == "__main__":
    subprocess_call.serve_call(probe_folder)
