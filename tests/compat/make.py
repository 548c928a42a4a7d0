"""Make what lies in kept/ with the harness of an older commit: PYTHON_OF_THAT_COMMIT tests/compat/make.py."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.testing import StubJudge

HERE = Path(__file__).parent
KEPT = HERE / "kept"
HARNESS = "import sys; from harness.cli import main; sys.exit(main(sys.argv[1:]))"
FAKES = "from pathlib import Path; from harness.testing import write_fake; "
FAKES += "write_fake(Path('base'), 0.3); write_fake(Path('good'), 0.95)"
JUDGE = ("judge", "calibrate", "labels.jsonl", "--suite", "judged.toml")
PLUGIN = ("-p", "house", "-p", "no:checks")
WAIVE = ("waive", "hope", "--reason", "first release", "--until", "2099-12-31", "--by", "somebody")
COMMANDS = {  # the cache they use -> command lines
    "other": (("run", "suite.toml", *PLUGIN), ("run", "sweep.toml", *PLUGIN), JUDGE, ("init", "init")),
    "cache": (
        (*WAIVE, "--suite", "small.toml"),
        ("run", "small.toml", *PLUGIN),
        ("promote", "exports/small"),
        ("keygen", "release"),
        ("sign", "exports/small", "--key", "release.key"),
    ),
}


def main() -> None:
    """Run the suites in a folder of their own, and keep what is small: verdicts of all, everything of small.toml."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "project"
        shutil.copytree(HERE / "project", folder)
        python(folder, FAKES)
        with StubJudge() as stub:
            judged = folder / "judged.toml"
            judged.write_text(judged.read_text("utf-8").replace("PORT", stub.openai_url.split(":")[2][:-3]), "utf-8")
            codes = [
                python(folder, HARNESS, *words, cache=cache) for cache, lines in COMMANDS.items() for words in lines
            ]
        shutil.rmtree(KEPT, ignore_errors=True)
        keep(folder)
    print(codes)


def python(folder: Path, code: str, *words: str, cache: str = "cache") -> int:
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "HARNESS_CACHE": str(folder / cache), "LOGNAME": "somebody"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return subprocess.run([sys.executable, "-c", code, *words], cwd=folder, env=env, check=False).returncode


def keep(folder: Path) -> None:
    """Copy what today's harness must read."""
    [small] = folder.glob("reports/small-*")
    report = small / "report.json"
    report.write_text(report.read_text("utf-8").replace(str(folder), "/project"), "utf-8")
    shutil.copytree(small, KEPT / "reports/small")
    shutil.copytree(
        folder / "exports", KEPT / "released", ignore=shutil.ignore_patterns("house", "halved", "plain", "sweep")
    )
    shutil.copytree(folder / "cache", KEPT / "cache", ignore=shutil.ignore_patterns("responses*"))
    with sqlite3.connect(folder / "cache/responses.sqlite") as db:
        (KEPT / "cache/responses.sql").write_text("\n".join(db.iterdump()) + "\n", "utf-8")
    shutil.copytree(folder / "init", KEPT / "init")
    for name in ("small.waivers.jsonl", "watched.jsonl", "labels.calibration.json"):
        shutil.copyfile(folder / name, KEPT / name)
    policy = 'suites = ["small"]\n' + (folder / "release.pub").read_text("utf-8")
    (KEPT / "policy.toml").write_text(policy, "utf-8")
    verdicts = {name: verdicts_of(folder, name) for name in ("house", "sweep", "small")}
    (KEPT / "verdicts.json").write_text(json.dumps(verdicts, indent=1) + "\n", "utf-8")


def verdicts_of(folder: Path, suite: str) -> list[list[str]]:
    [path] = folder.glob(f"reports/{suite}-*/report.json")
    found = json.loads(path.read_text("utf-8"))["reports"]
    return [[v["candidate"], v["gate"], v["outcome"], v["value"]] for r in found for v in r["verdicts"]]


if __name__ == "__main__":
    main()
