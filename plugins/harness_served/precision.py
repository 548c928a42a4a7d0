"""Bits and arithmetic of weights, by the names of their types.

GGUF files and servers write these names. A server's own report may make a bound narrower, and never wider.
"""

from __future__ import annotations

import re

ARITHMETICS = ("float32", "f16", "bf16", "q8")  # from the finest to the coarsest
FLOAT_BITS = 16  # a float of fewer bits than the export's is arithmetic, and no quantised copy


def count_bits(kind: str) -> int | None:
    """Return the bits of a weight, by the name of its type.

    A name is such as "Q4_K - Medium", "all F32" or "bfloat16"; None if unknown.
    """
    found = re.search(r"\b(?:MOSTLY_)?(?:BF|I?Q|TQ|F|B?FLOAT|INT)(\d+)", kind.upper())
    return int(found[1]) if found else None


def find_arithmetic(stored: str, reported: str, gguf: bool) -> str:
    """Return the arithmetic of a server of weights stored so: the engines' usual one, or a finer one that it reports.

    llama.cpp computes as a file's type says; others compute in bfloat16 unless they report float32.
    """
    own = _parse_arithmetic(stored) if gguf else "bf16"
    told = _parse_arithmetic(reported) if reported else own
    return min(own, told, key=ARITHMETICS.index)


def _parse_arithmetic(kind: str) -> str:
    kind = kind.upper()
    if "BF16" in kind or "BFLOAT16" in kind:
        return "bf16"
    if "F32" in kind or "FLOAT32" in kind:
        return "float32"
    return "f16" if "F16" in kind or "FLOAT16" in kind else "q8"
