"""Make the pictures of the README and the docs from a real run: the page in Chromium, the terminal by rich.

    python -m bench.pictures reports/domain-…

The first screen of its page, light and dark, and the end of what `harness show` prints of it.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from bench.child import ROOT
from harness import read_run
from harness.cli.terminal import Terminal
from harness_report.page import write_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
DARK = "--blink-settings=preferredColorScheme=0"
ADDRESSES = re.compile(r"@font-face \{[^}]*\}|<!--.*?-->", re.DOTALL)  # rich would have a reader's browser fetch fonts
COLUMNS, LINES = 110, 24


def main() -> None:
    """Write the pictures of a run folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder in reports/")
    parser.add_argument("--to", type=Path, default=ROOT / "docs/pictures")
    args = parser.parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    page = write_page(args.run).resolve()
    for name, height, flags in (("report-light", 880, ()), ("report-dark", 880, (DARK,))):
        photograph(page, args.to / f"{name}.png", height, flags)
    (args.to / "show.svg").write_text(render_terminal(args.run), "utf-8")


def photograph(page: Path, to: Path, height: int, flags: tuple[str, ...]) -> None:
    """Write the first screen of a page as a picture."""
    if CHROMIUM is None:
        raise SystemExit("pictures: need chromium")
    with tempfile.TemporaryDirectory() as profile:
        how = [f"--user-data-dir={profile}", "--hide-scrollbars", f"--window-size=1300,{height}", f"--screenshot={to}"]
        subprocess.run([CHROMIUM, *FLAGS, *how, *flags, page.as_uri()], check=True, capture_output=True)


def make_console() -> Console:
    """Return a console that remembers what is printed."""
    return Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, highlight=False)


def render_terminal(run: Path) -> str:
    """Return the last lines of what `harness show` prints of a run, as SVG."""
    told = read_run(run)
    exports = [replace(e, to="/".join(Path(e.to).parts[-2:])) for e in told.exports]  # no folder of this machine
    first, second = (make_console() for _ in range(2))
    Terminal(0, first).print_run(replace(told, exports=exports, folder=f"reports/{run.name}"))
    for line in first.export_text(styles=True).rstrip("\n").split("\n")[-LINES:]:
        second.print(Text.from_ansi(line), overflow="fold")
    return ADDRESSES.sub("", second.export_svg(title="harness show"))


if __name__ == "__main__":
    main()
