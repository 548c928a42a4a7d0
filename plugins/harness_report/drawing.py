"""Vega-Lite specs -> static SVG, remembered by the spec's digest; without vl-convert there is none."""

from __future__ import annotations

import atexit
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness import UsageError, cache_dir, digest_of, write_text
from harness.internals import shown

PAGE, INK, MUTED, ACCENT = "#fdfcf9", "#1f2326", "#5a5f65", "#1f5f99"
PASS, OPEN, FAIL, BASE, HAIR, BARRED = "#14694f", "#855700", "#b3261e", "#7d8288", "#d8d5cd", "#f2f0ea"
VERDICTS = {"PASS": PASS, "FAIL": FAIL, "INCONCLUSIVE": OPEN, "ERROR": FAIL}
DARK = {
    PAGE: "#16181b", INK: "#e3e1db", MUTED: "#a2a6ab", ACCENT: "#83b9ea", PASS: "#66c5a3", OPEN: "#e0b356",
    FAIL: "#ff8f80", BASE: "#8a8f96", HAIR: "#383c42", BARRED: "#202327",
}  # fmt: skip
AXIS = {
    "labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal", "labelColor": MUTED, "titleColor": MUTED,
    "domainColor": BASE, "tickColor": BASE, "gridColor": HAIR, "tickSize": 4, "labelPadding": 3,
}  # fmt: skip
CONFIG = {
    "view": {"stroke": None},
    "axis": AXIS | {"grid": False},
    "text": {"fontSize": 11, "color": MUTED},
    "font": "Roboto, Arial, sans-serif",
}
NOT_DRAWN = re.compile(r' (?:aria-\w+|role|class|xmlns:xlink|version|pointer-events)="[^"]*"')
TAG = re.compile(r"<[^>]*>")
DRAWER = """
import json, sys, vl_convert
for line in sys.stdin:
    try:
        told = {"svg": vl_convert.vegalite_to_svg(line, vl_version="v5.20", allowed_base_urls=[])}
    except Exception as error:
        told = {"why": str(error)}
    print(json.dumps(told), flush=True)
"""
LONG = re.compile(r"(\.\d\d)\d+")  # digits of a place that no screen shows


@dataclass(frozen=True)
class Chart:
    """A chart: its spec, what it shows in words, and the same as a table, for where it cannot be drawn."""

    title: str
    note: str
    spec: Mapping[str, Any]
    head: tuple[str, ...] = ()
    table: Sequence[tuple[str, ...]] = ()
    subject: str = ""
    svg: str = ""


def can_draw() -> bool:
    """Return whether charts can be drawn here, and what draws has not ended."""
    return find_spec("vl_convert") is not None and not (_drawer.cache_info().currsize and _drawer().poll() is not None)


@cache
def _drawer() -> subprocess.Popen[str]:
    """Begin the process that draws all charts of this one: V8 ends the one that it is in where it gets no memory."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p or "." for p in sys.path)}
    command, pipe, no = [sys.executable, "-P", "-c", DRAWER], subprocess.PIPE, subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=no, env=env, encoding="utf-8")
    atexit.register(process.communicate)  # which ends it
    return process


def _asked(spec: str) -> str:
    """Return the SVG of a spec, or nothing and a warning where there is none."""
    process = _drawer()
    assert process.stdin and process.stdout
    try:
        process.stdin.write(spec + "\n")
        process.stdin.flush()
        told = json.loads(process.stdout.readline())
    except (OSError, ValueError):
        process.kill()
        told = {"why": f"the process that draws ended with {process.wait()}, for want of memory perhaps"}
    if "why" in told:
        print(shown(f"warning: a chart was not drawn: {told['why']}"), file=sys.stderr)
    return str(told.get("svg", ""))


def draw(spec: Mapping[str, Any], label: str = "") -> str:
    """Return a spec as SVG without scripts or addresses; empty where vl-convert is missing.

    A picture that was drawn before is taken from the cache folder, so that an unchanged run draws nothing.
    """
    if not can_draw():
        return ""
    whole = {"background": None, "config": CONFIG, **spec}
    svg = _remembered(whole)
    named = f'role="img" aria-label="{_attribute(label)}"' if label else 'aria-hidden="true"'
    return svg.replace("<svg", f"<svg {named}", 1)


def _remembered(spec: Mapping[str, Any]) -> str:
    """Return the SVG of a spec, from the cache where it is there."""
    path = None
    try:
        name = digest_of([spec, version("vl-convert-python"), TAG.pattern])
        path = cache_dir() / "charts" / f"{name}.svg"
        return path.read_text("utf-8")
    except (UsageError, OSError, ValueError, PackageNotFoundError):
        svg = _drawn(spec)
    if path is not None and svg:
        _remember(path, svg)
    return svg


def _remember(path: Path, svg: str) -> None:
    try:
        write_text(path, svg)
    except OSError:
        return  # on a full disk the next draws it again


def _drawn(spec: Mapping[str, Any]) -> str:
    svg = _asked(json.dumps(_spelt(spec)))  # what XML cannot hold ends the process there
    return TAG.sub(lambda tag: LONG.sub(r"\1", tag[0]), NOT_DRAWN.sub("", svg))


def _spelt(spec: Any) -> Any:
    """Return a spec with every text in it as it may be shown."""
    if isinstance(spec, str):
        return shown(spec)
    if isinstance(spec, Mapping):
        return {shown(str(key)): _spelt(value) for key, value in spec.items()}
    return [_spelt(value) for value in spec] if isinstance(spec, (list, tuple)) else spec


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def dark_rules() -> str:
    """Return the rules of a style sheet that turn the colours of charts dark."""
    rules = (f'svg [{a}="{light}"]{{{a}:{dark}}}' for light, dark in DARK.items() for a in ("fill", "stroke"))
    return "".join(rules)
