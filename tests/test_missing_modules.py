"""Every command where the modules of an extra are not installed: it works, or one line names the extra."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from harness.errors import EXTRAS, INCLUDED, missing_modules_message
from harness.testing import ROWS, Project

pytestmark = pytest.mark.slow
# in a process of its own: None in sys.modules is what both an import and `find_spec` take for "not there"
WALK = """
import contextlib, io, json, sys
blocked, commands = json.loads(sys.argv[1])
sys.modules |= dict.fromkeys(blocked)
from harness.cli.main import main
for words in commands:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, err.getvalue(), out.getvalue()]))
"""
COMMANDS = (
    "plugins", "explain", "explain D01", "schema", "init other", "show RUN", "show RUN --rows", "history fake",
    "compare RUN RUN", "report RUN", "report RUN --markdown", "cache", "--print-completion bash",
    "check suite.toml -p harness.testing", "plan suite.toml -p harness.testing",
    "waive floor --until 2999-01-01 --reason because",
    "gate base.csv candidate.csv --worse-by-at-most 0.05", "gate base.csv candidate.csv --better-by 0",
    "gate means.csv other_means.csv --higher --worse-by-at-most 1", "gate book.xlsx other.xlsx --better-by 0",
    "plan base.csv candidate.csv --metric score",
    "verify exports/fake", "verify exports/fake --policy policy.toml",
    "aa suite.toml -p harness.testing --runs 2", "parity exports/fake --runtime http://127.0.0.1:9/v1",
    "publish exports/fake owner/name --yes --to published", "promote exports/fake",
    "keygen other", "sign exports/fake --key release.key", "view reports --host 256.0.0.1",
)  # fmt: skip
EVALUATED = '[suite]\nname = "s"\n\n[model]\nuse = "{}"\npath = "small"\n{}\n\n[[eval]]\nname = "qa"\nuse = "{}"\n{}\n'
SERVED = 'base_url = "http://127.0.0.1:9/v1"'
DATA = 'data = "test.jsonl"'
SUITES = {
    "api": EVALUATED.format("api", SERVED, "exact_match", DATA),
    "judge": EVALUATED.format("api", SERVED, "judge", DATA + '\nbackend = "anthropic"\nmodel = "small"'),
    "lm-eval": EVALUATED.format("api", SERVED, "lm_eval", 'task = "arc_easy"'),
    "inspect": EVALUATED.format("api", SERVED, "inspect", 'task = "task.py"'),
    "evaluate": EVALUATED.format("api", SERVED, "hf_metric", DATA + '\nmetric = "local:chrf"'),
    "json": EVALUATED.format("api", SERVED, "json", DATA + '\nschema = "schema.json"'),
    "hf": EVALUATED.format("hf", "", "exact_match", DATA).replace('"small"', '"tiny:llama"'),
}
REFUSED = {  # the extra without which a command ends with exit 4
    "gate": {
        "aa suite.toml",
        "gate means.csv",
        "gate book.xlsx",
        "check suite.toml",
        "plan suite.toml",
        "run suite.toml",
        "ask",
        "plan base.csv",
    },
    "completion": {"--print-completion"},
    "report": {"report RUN"},
    "view": {"view"},
    "sign": {"keygen", "sign", "verify exports/fake --policy"},
    **{extra: {f"run {extra}.toml"} for extra in SUITES},
    "hf": {"run hf.toml", "ask"},
    "api": {"run api.toml", "parity"},
}


@pytest.fixture
def everything(passed: Project) -> Path:
    """Return a folder with what the commands name."""
    from openpyxl import Workbook

    folder, luck = passed.folder, random.Random(1)
    for name in ("base", "candidate", "means", "other_means"):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["id", "score"])
            rows.writerows([f"q{i}", luck.gauss(0, 1) if "means" in name else luck.randint(0, 1)] for i in range(60))
    for name, step in (("book", 2), ("other", 3)):
        book = Workbook()
        for row in (["id", "score"], *([f"q{i}", int(i % step == 0)] for i in range(60))):
            book.active.append(row)
        book.save(folder / f"{name}.xlsx")
    passed.write({f"{extra}.toml": text for extra, text in SUITES.items()})
    passed.write({"test.jsonl": ROWS, "task.py": "", "schema.json": '{"type": "object"}'})
    assert passed.harness("keygen", "release").code == 0
    policy = 'suites = ["fake"]\n' + (folder / "release.pub").read_text("utf-8")
    (folder / "policy.toml").write_text(policy, "utf-8")
    return folder


SLOW = ("run suite.toml -p harness.testing", "blame suite.toml RUN --gate floor", "ask exports/fake hello")


def walk(folder: Path, extra: str) -> list[tuple[str, int, str]]:
    """Run the commands without the modules of an extra, and return the code and the messages of each."""
    (run,) = (folder / "reports").iterdir()
    commands = [
        *COMMANDS,
        *(SLOW if extra in ("gate", "hf") else ()),
        *([f"run {extra}.toml"] if extra in SUITES else []),
    ]
    words = [[f"reports/{run.name}" if word == "RUN" else word for word in command.split()] for command in commands]
    blocked = [module for module, brings in EXTRAS.items() if brings == extra]
    done = subprocess.run(
        [sys.executable, "-c", WALK, json.dumps([blocked, words])],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return [(command, code, error) for command, (code, error, _) in zip(commands, lines, strict=True)]


@pytest.mark.parametrize("extra", REFUSED)
def test_commands_without_an_extra_work_or_name_it(everything: Path, extra: str) -> None:
    """Exit 4 with the extra's name where a command needs it, and what it is without it for all others."""
    refused = set()
    for command, code, error in walk(everything, extra):
        assert code != 3 and "Traceback" not in error, (command, error)
        if code == 4 and "needs the module" in error:
            assert f"[{extra}]" in error and error.count("error: ") == 1, (command, error)
            refused.add(command)
    expected = REFUSED.get(extra, set())
    assert all(any(command.startswith(start) for start in expected) for command in refused), refused
    assert all(any(command.startswith(start) for command in refused) for start in expected), refused


@cache
def read_extras() -> dict[str, Any]:
    import tomllib

    return tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]


@pytest.mark.parametrize("module", EXTRAS)
def test_an_extra_brings_the_packages_that_messages_name(module: str) -> None:
    """Each package of a message is a requirement of the extra, or comes with one."""
    message = missing_modules_message(module)
    packages = message.partition("pip install ")[2].partition(",")[0].replace("'", "").split()
    assert f"[{EXTRAS[module]}]" in message
    required = " ".join(read_extras()[EXTRAS[module]])
    dependencies = {"tokenizers": "transformers", "pyarrow": "datasets"}
    assert all(dependencies.get(name, name.partition("[")[0]) in required.replace("_", "-") for name in packages)


def test_the_smallest_set_of_extras_is_named() -> None:
    """An extra that another one brings is not named beside it, as pyproject.toml has them."""
    own = "finetune-harness["
    direct = {
        extra: [line.removeprefix(own).rstrip("]") for line in required if line.startswith(own)]
        for extra, required in read_extras().items()
        if extra != "all"
    }
    brought = {extra: {*names, *(n for name in names for n in direct[name])} for extra, names in direct.items()}
    assert {extra: {*names} for extra, names in INCLUDED.items()} == {e: names for e, names in brought.items() if names}
    assert missing_modules_message("numpy", "scipy", "torch").endswith("install with the extra [hf]")
    assert missing_modules_message("scipy", "openpyxl", "evaluate").endswith("install with the extra [evaluate]")


def test_init_and_run_name_the_same_modules(tmp_path: Path) -> None:
    """What `init` says to install before a run is what `run` says is missing."""
    modules = [module for module, extra in EXTRAS.items() if extra in ("gate", "hf")]
    words = [["init", "mine"], ["run", "mine/suite.toml"]]
    command = [sys.executable, "-c", WALK, json.dumps([modules, words])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    (_, init, _), (_, run, printed) = map(json.loads, done.stdout.splitlines())
    needs = init.partition("before: a run ")[2].partition("\n")[0]
    assert needs.endswith("install with the extra [hf]") and '"trl"' in needs
    assert run.endswith(f"{needs}\n") and run.count("\n") == 1 and printed == ""
