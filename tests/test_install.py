"""What is in the wheel, and what a deploy job has that installs the base dependencies alone."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata, parse_email
from packaging.requirements import Requirement
from trove_classifiers import classifiers

import harness

pytestmark = pytest.mark.packaging
ROOT = Path(__file__).parent.parent


def test_wheel_works_with_the_base_dependencies_alone(tmp_path: Path) -> None:
    """In a fresh environment the command runs, a suite collects, tables are gated, and messages name the extras."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as z:
        top = {name.split("/")[0] for name in z.namelist()}
    assert {"harness", "harness_hf", "harness_lora", "harness_sft", "harness_export"} <= top
    assert not {"plugins", "tests", "suites"} & top
    venv.create(tmp_path / "env", with_pip=False)
    into = ["--python", str(tmp_path / "env/bin/python"), "install", "--quiet", "--no-compile", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *into], check=True, capture_output=True)
    harness = tmp_path / "env/bin/harness"
    listed = subprocess.run([harness, "plugins"], check=True, capture_output=True, text=True).stdout
    assert "trainer sft  (sft)" in listed
    subprocess.run([harness, "init", str(tmp_path / "mine")], check=True, capture_output=True)
    collect = [harness, "run", "--collect-only", str(tmp_path / "mine/suite.toml")]
    assert "9 items" in subprocess.run(collect, check=True, capture_output=True, text=True).stdout
    _assert_gates_tables(harness, tmp_path)
    _assert_names_extras(harness, tmp_path)


def _assert_gates_tables(harness: Path, folder: Path) -> None:
    """See that two tables are gated, and that the verdict is decided again from its evidence."""
    for name, lost in (("a", 40), ("b", 38)):
        lines = [f"q{i},{int(i % 400 >= lost)}\n" for i in range(2_000)]
        (folder / f"{name}.csv").write_text("".join(["id,score\n", *lines]), "utf-8")
    words = ["gate", "a.csv", "b.csv", "--worse-by-at-most", "0.02"]
    gated = subprocess.run([harness, *words], cwd=folder, capture_output=True, text=True)
    assert (gated.returncode, gated.stderr) == (0, "")
    assert "PASS  no-worse" in gated.stdout
    (run,) = (folder / "reports").iterdir()
    command = [harness, "verify", str(run / "gate")]
    assert "1 of 1 decided again" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
    verdicts = run / "gate/verdicts.json"
    verdicts.write_text(verdicts.read_text("utf-8").replace('"PASS"', '"FAIL"', 1), "utf-8")
    assert subprocess.run(command, capture_output=True).returncode == 7


def _assert_names_extras(harness: Path, folder: Path) -> None:
    """See that a command which needs an extra ends with exit 4 and a line that names it."""
    (run,) = (folder / "reports").iterdir()
    (folder / "means.csv").write_text("id,score\n" + "".join(f"q{i},0.{i + 10}\n" for i in range(60)), "utf-8")
    (folder / "others.csv").write_text("id,score\n" + "".join(f"q{i},0.{70 - i}\n" for i in range(60)), "utf-8")
    cases = {
        "gate means.csv others.csv --higher --worse-by-at-most 1": "gate",
        "run mine/suite.toml": "hf",
        "check mine/suite.toml": "hf",
        "plan mine/suite.toml": "hf",
        "keygen release": "sign",
        f"report {run}": "report",
        "view reports": "view",
        "--print-completion bash": "completion",
    }
    for words, extra in cases.items():
        done = subprocess.run([harness, *words.split()], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 4, (words, done.stdout, done.stderr)
        assert f"install with the extra [{extra}]" in done.stderr, (words, done.stderr)
        assert "Traceback" not in done.stderr, (words, done.stderr)


STRAY = [
    *(".env", ".venv/lib/x.py", "harness/.env", "harness/notes.txt", "harness/__pycache__/x.pyc", "tests/release.key"),
    *("reports/run/report.json", "exports/a/README.md", "suites/exports/a/config.json", "plugins/harness_api/key.pem"),
]
PACKAGES = {"harness", *(p.name for p in (ROOT / "plugins").iterdir() if (p / "__init__.py").is_file())}


def test_wheel_and_sdist_hold_the_project_and_nothing_else(tmp_path: Path) -> None:
    """The sdist is every file under version control, the wheel every module, whatever else lies about."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a checkout, so what belongs to the project is not known")
    files, tree = [f for f in listed.stdout.splitlines() if (ROOT / f).is_file()], tmp_path / "tree"
    for name in (*files, *STRAY):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes((ROOT / name).read_bytes() if name in files else b"stray")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(tree)]
    subprocess.run(build, check=True, capture_output=True)
    (sdist,), (wheel,) = (tmp_path / "dist").glob("*.tar.gz"), (tmp_path / "dist").glob("*.whl")
    with tarfile.open(sdist) as t:
        assert {m.name.partition("/")[2] for m in t.getmembers() if m.isfile()} == {*files, "PKG-INFO"}
    with zipfile.ZipFile(wheel) as z:
        names = [n for n in z.namelist() if ".dist-info/" not in n]
    modules = {f.removeprefix("plugins/") for f in files if f.startswith(("harness/", "plugins/"))}
    assert set(names) == modules
    assert {n.partition("/")[0] for n in names} == PACKAGES
    told = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", wheel, sdist], capture_output=True)
    assert told.returncode == 0, told.stdout.decode()
    assert_described(wheel)


def assert_described(wheel: Path) -> None:
    """Assert that the metadata of a wheel say what PyPI and pip read in them."""
    with zipfile.ZipFile(wheel) as z:
        [text] = [z.read(n).decode() for n in z.namelist() if n.endswith(".dist-info/METADATA")]
    about, unparsed = parse_email(text)
    assert unparsed == {}
    Metadata.from_raw(about)
    assert about["version"] == harness.__version__
    assert about["license_files"] == ["LICENSE", "plugins/harness_packs/NOTICE"]
    assert set(about["classifiers"]) <= classifiers
    needed = [Requirement(line) for line in about["requires_dist"]]
    assert {e for r in needed if r.name == about["name"] for e in r.extras} <= set(about["provides_extra"])
    assert {m for r in needed for m in re.findall(r"extra == '([^']+)'", str(r.marker).replace('"', "'"))} == set(
        about["provides_extra"]
    )
