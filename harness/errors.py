"""Errors, and the exit codes of the process.

UsageError        the user can fix it: one clear line each, no traceback (exit 4)
CheckFailedError  the model is broken, and a check saw it: one line, no export (exit 1)
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

from harness.texts.escaping import escape_controls

MAX_COMPARED_NAMES = 300  # names that a misspelt one is compared with, and characters of it


class ExitCode(IntEnum):
    """How `harness` ends, as pytest would end where the two agree."""

    OK = 0  # every blocking gate passed, or is waived
    FAILED = 1  # a gate failed, or an error finding after training
    INTERRUPTED = 2  # Ctrl-C
    INTERNAL = 3  # a bug of ours
    USAGE = 4  # a mistake in the suite, the data or the command, or a broken candidate that was made elsewhere
    NOTHING_GATED = 5  # nothing was gated, which is never "ok"
    INCONCLUSIVE = 6  # none failed, but one is inconclusive or could not be evaluated
    REFUSED = 7  # `verify` refused
    UNAVAILABLE = 8  # a server gave no answer: try again


class UsageError(Exception):
    """One or more mistakes of the user, each a line `where: what is wrong; what to do`."""

    def __init__(self, *messages: str) -> None:
        self.messages = tuple(map(escape_controls, messages))
        super().__init__("\n".join(self.messages))


class WorkersGoneError(UsageError):
    """No worker is left, or none can be had that answers: every other evaluation would end alike."""


class CheckFailedError(RuntimeError):
    """Something is wrong with the model, not with the suite: training diverged, a merge changed nothing."""


# what plugin code may raise: a sys.exit() ends what it was called for, not the run
PLUGIN_ERRORS = (Exception, SystemExit)


class Mistakes:
    """Collect mistakes, so that all of them are reported at once."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def add(self, where: str, what: str) -> None:
        self.messages.append(f"{where}: {what}")

    @contextmanager
    def collecting(self, where: str = "") -> Iterator[None]:
        """Collect the UsageErrors that a block raises.

        The block ends there, and execution goes on after it. `where` is put before messages that do not begin with it.
        """
        try:
            yield
        except UsageError as error:
            self.messages += [m if m.startswith(where) else f"{where} {m}" for m in error.messages]

    def raise_errors(self) -> None:
        if self.messages:
            raise UsageError(*dict.fromkeys(self.messages))


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK_FULL_TEXTS = (  # in the words of libraries that keep no number
    "No space left on device",  # safetensors, the Hub's client
    "(os error 27)",  # Rust's, where a file may grow no larger
    "PytorchStreamWriter failed writing file",
    ". unexpected pos ",  # torch's inline_container.cc
)
MIN_FREE_BYTES = 1 << 20  # bytes: a disk with less is full


def disk_full_error(error: BaseException, folder: Path | None = None) -> str:
    """Return `"PATH": why` where an error is or came of a disk that is full, else nothing.

    Torch does not always say why it could not write: with a folder on that disk, the disk is looked at too.
    """
    full = [
        e
        for e in _iterate_causes(error)
        if getattr(e, "errno", None) in NO_ROOM or any(words in str(e) for words in DISK_FULL_TEXTS)
    ]
    disk = os.statvfs(folder) if folder and not full else None
    if disk and (disk.f_bavail * disk.f_frsize < MIN_FREE_BYTES or (disk.f_files and not disk.f_favail)):
        full = [error]
    if not full or isinstance(error, (UsageError, CheckFailedError)):  # which have a line of their own
        return ""
    number = next((one.errno for one in full if isinstance(one, OSError) and one.errno in NO_ROOM), errno.ENOSPC)
    where = next((one.filename for one in full if isinstance(one, OSError) and one.filename), folder)
    return (f'"{where}": ' if where else "") + os.strerror(number)


def _iterate_causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    for _ in range(20):  # a chain may be a ring
        if cause is not None:
            yield cause
            cause = cause.__cause__ or cause.__context__


NO_MEMORY = (
    "can't allocate memory",  # torch on a CPU
    "not enough memory",
    "out of memory",  # CUDA, and what is built on it
    "Cannot allocate memory",  # the system, in the words of libraries that keep no number
    "failed to map segment",  # a library that is being loaded
    "ALLOC_FAILED",  # cuBLAS, cuDNN
    "bad_alloc",
    "memory allocation of",  # Rust
)


def memory_error(error: BaseException) -> str:
    """Describe an error caused by exhausted memory, in one line. Empty if an error has another cause."""
    said = ""
    for cause in _iterate_causes(error):
        text = str(cause)
        told = isinstance(cause, (RuntimeError, ImportError, OSError)) and any(words in text for words in NO_MEMORY)
        if told or isinstance(cause, MemoryError) or getattr(cause, "errno", None) == errno.ENOMEM:
            said = " ".join(text.split())[:200] or "memory allocation failed"
    return f"out of memory: {said}; {MEMORY_ADVICE}" if said else ""


MEMORY_ADVICE = "give the process more memory, or lower dtype, batch_tokens, batch or model size; finished work is kept"


def resource_error(error: BaseException) -> str:
    """Describe an error caused by exhausted disk, memory or open files.

    Empty if an error has another cause; else one line.
    """
    if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
        return f"{os.strerror(errno.EMFILE)}; raise the limit of open files (ulimit -n) and run again"
    full = disk_full_error(error)
    return f"{full}; free space and run again; finished work is kept" if full else memory_error(error)


def is_library_error(error: BaseException) -> bool:
    """Return whether an error may be a library's: an Exception, or a panic of a Rust library, which is not one."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def missing_extra_error(error: BaseException) -> str:
    """Describe an error that came of a module of an extra that is not installed. Empty if it has another cause."""
    for cause in _iterate_causes(error):
        if isinstance(cause, ModuleNotFoundError) and (cause.name or "").partition(".")[0] in EXTRAS:
            return missing_modules_message(cause.name)
    return ""


# the extra that brings a module; what comes together is named together
EXTRAS = {
    "numpy": "gate", "scipy": "gate", "openpyxl": "gate", "zstandard": "gate",
    "accelerate": "hf", "datasets": "hf", "gguf": "hf", "peft": "hf", "pyarrow": "hf", "safetensors": "hf",
    "tokenizers": "hf", "torch": "hf", "transformers": "hf", "trl": "hf",
    "bitsandbytes": "qlora", "evaluate": "evaluate", "jinja2": "report", "vl_convert": "report",
    "openai": "api", "anthropic": "judge", "lm_eval": "lm-eval", "inspect_ai": "inspect", "jsonschema": "json",
    "cryptography": "sign", "securesystemslib": "sign", "starlette": "view", "uvicorn": "view", "shtab": "completion",
    "tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "opentelemetry": "otel", "ray": "ray",
    "llama_cpp": "llama-cpp",
}  # fmt: skip
INCLUDED = {  # extras that another extra brings
    "hf": ("gate",), "api": ("gate",), "inspect": ("gate",), "docs": ("gate",), "qlora": ("gate", "hf"),
    "evaluate": ("gate", "hf"), "llama-cpp": ("gate", "hf"), "judge": ("api", "gate"), "lm-eval": ("api", "gate"),
}  # fmt: skip
TOGETHER = {"numpy": "numpy scipy", "scipy": "numpy scipy", "jinja2": "jinja2 vl-convert-python"}
PACKAGES = {
    "cryptography": "'securesystemslib[crypto]'", "securesystemslib": "'securesystemslib[crypto]'",
    "flash_attn": "flash-attn", "inspect_ai": "inspect-ai", "liger_kernel": "liger-kernel",
    "llama_cpp": "llama-cpp-python", "lm_eval": "lm-eval", "opentelemetry": "opentelemetry-sdk",
    "vl_convert": "vl-convert-python",
}  # fmt: skip


def missing_modules_message(*modules: str | None) -> str:
    """Return which modules are not installed, the packages that have them, and the extra that brings all of it.

    Packages are named one by one: this package is not on an index, where another could have its name.
    """
    names = [name or "unknown" for name in modules]
    tops = dict.fromkeys(name.partition(".")[0] for name in names)
    packages = " ".join(TOGETHER.get(top, PACKAGES.get(top, top)) for top in tops)
    packages = " ".join(dict.fromkeys(packages.split(" ")))
    named = {EXTRAS[top] for top in tops if top in EXTRAS}
    extras = sorted(named.difference(*(INCLUDED.get(extra, ()) for extra in named)))
    needs = ", ".join(f'"{name}"' for name in dict.fromkeys(names))
    brings = f", or install with the extra{'s' if len(extras) > 1 else ''} [{','.join(extras)}]" if extras else ""
    return f"needs the module{'s' if len(names) > 1 else ''} {needs}; pip install {packages}{brings}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean "x"?`, else the known names.

    Empty for a very long word, and if no name is similar and more than 12, or none, are known.
    """
    known = sorted(known)
    if len(word) > MAX_COMPARED_NAMES:
        return ""
    if (
        len(known) > MAX_COMPARED_NAMES
    ):  # to compare each mistake with all of so many would take longer than to look it up
        known = [k for k in known if k[:1].lower() == word[:1].lower() and abs(len(k) - len(word)) <= 2][
            :MAX_COMPARED_NAMES
        ]
    alike = {k.lower(): k for k in known}
    if close := difflib.get_close_matches(word.lower(), alike, n=1):
        return f'; did you mean "{alike[close[0]]}"?'
    return "; known: " + ", ".join(f'"{k}"' for k in known) if known and len(known) <= 12 else ""


def suggest_option(word: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown option.

    It is `; did you mean "x"?`, or a pointer for another tool's name of an option. Empty if there is none.
    """
    from harness.texts.option_names import OPTION_NAMES  # which help does not need

    known = [*known]
    table, _, key = (meant := OPTION_NAMES.get(word, "")).rpartition(".")
    if meant and "." in meant and " " not in meant:
        if key in known:
            return f'; did you mean "{key}"?'
        return f'; it is "{key}" in {f"[[{table}]]" if table in ("eval", "gate", "export") else f"[{table}]"}'
    return f"; {meant}" if meant else did_you_mean(word, known)
