"""Environment variables under which libraries compute as they do on a processor with fewer instructions."""

from __future__ import annotations

import sys
import warnings

SETTINGS = {  # torch, oneDNN, MKL (on Intel alone), and OpenBLAS
    "avx2": ("avx2", "AVX2", "AVX2", "Haswell"),
    "default": ("default", "SSE41", "SSE4_2", "Nehalem"),
}
VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "OPENBLAS_CORETYPE")
ABOVE = {"avx2": ("AVX512", "X86_V4"), "default": ("AVX512", "X86_V4", "X86_V3", "AVX2", "FMA3")}


def make_environment(name: str) -> dict[str, str]:
    """Return the variables of a setting; raises KeyError where there is none of that name."""
    return {
        **dict(zip(VARIABLES, SETTINGS[name], strict=True)),
        "NPY_DISABLE_CPU_FEATURES": _list_disabled_features(name),
    }


def is_lesser(name: str) -> bool:
    """Return whether this processor has instructions that a setting turns off."""
    return bool(_list_disabled_features(name))


def _list_disabled_features(name: str) -> str:
    """Return what numpy was built to dispatch to and this processor has, but a setting's has not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from numpy._core import _multiarray_umath as core
    there = core.__cpu_features__
    return ",".join(f for f in core.__cpu_dispatch__ if there.get(f) and f.startswith(ABOVE[name]))


def main(name: str = "") -> None:
    """Print a setting's variables, or without a name which settings turn off what this processor has."""
    pairs = make_environment(name).items() if name else ()
    print("\n".join([f"{key}={value}" for key, value in pairs] or filter(is_lesser, SETTINGS)))


if __name__ == "__main__":
    main(*sys.argv[1:])
