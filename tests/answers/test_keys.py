"""What is remembered is found again while everything it was made from is the same, and never otherwise."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import harness
from harness import testing
from harness.answers import keys
from harness.artifacts import artifact_cache
from harness.errors import UsageError
from harness.files import cache_dir
from harness.pipeline import preflight
from harness.pipeline.run import Options, open_run
from harness.records.models import ModelRef
from harness.release import conversions
from harness.testing import ROWS, SUITE, TRAIN, Project, write_fake

PLUGIN = """
from harness import hookimpl, testing
from harness_domain import exact_match

def train(ref, adapter, rows, out, *, progress, seed, skill: float = 0.9):
    import helper
    return testing.train(ref, adapter, rows, out, progress=progress, seed=seed, skill=skill)

@hookimpl
def harness_trainers():
    return {"own": train}
"""
EVAL = """
[[eval]]
name = "qa"
use = "exact_match"
data = "test.jsonl"
select = "select.jsonl"
fewshot_data = "shots.jsonl"
slices = ["kind"]
"""
SHOTS = '\n[subject.fewshot]\nfrom = "base"\nshots = 2\n'
FULL = SUITE[: SUITE.index("[[eval]]")].replace('use = "fake"\ndata', 'use = "own"\nskill = 0.9\ndata') + EVAL + SHOTS
FULL += SUITE[SUITE.index("[[gate]]") :]


@dataclass(frozen=True)
class World:
    """A small project as the texts of its files."""

    files: dict[str, str]

    def write(self, folder: Path) -> None:
        """Write the project, with a base whose weights are always the same."""
        write_fake(folder / "base", 0.3)
        for name, text in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, "utf-8")


def format_jsonl(rows: list[dict[str, Any]]) -> str:
    """Write rows as JSON lines."""
    return "".join(json.dumps(r) + "\n" for r in rows)


def make_rows(name: str, words: list[str]) -> list[dict[str, Any]]:
    """Return rows whose answers are words."""
    return [
        {"id": f"{name}{i}", "input": f"{name} {i} say {w}", "target": w, "kind": "ab"[i % 2]}
        for i, w in enumerate(words)
    ]


WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=6), min_size=4, max_size=8)
SMALL = st.text("abcdefgh {}", max_size=12)


@st.composite
def draw_world(draw: st.DrawFn) -> World:
    """Draw a project: rows of every split, files of the base, code of a plugin and its helper."""
    rows = {name: format_jsonl(make_rows(name, draw(WORDS))) for name in ("test", "select", "shots", "train")}
    return World(
        {
            "suite.toml": FULL,
            **{f"{name}.jsonl": text for name, text in rows.items()},
            "base/config.json": json.dumps({"text": draw(SMALL)}),
            "base/tokenizer.json": json.dumps(draw(SMALL)),
            "base/chat_template.jinja": draw(SMALL),
            "base/generation_config.json": json.dumps({"text": draw(SMALL)}),
            "base/additional_chat_templates/tool.jinja": draw(SMALL),
            "harnessfile.py": PLUGIN,
            "helper.py": f"TEXT = {draw(SMALL)!r}\n",
        }
    )


def collect_keys(world: World, *overrides: str) -> dict[str, str]:
    """Write a project into a folder of its own, and return every key that a run of it would use."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world.write(folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HARNESS_CACHE", str(folder / "cache"))
            patch.chdir(folder)
            session = open_run(Path("suite.toml"), Options(plugins=("harness.testing",), overrides=overrides)).session
            collection, ready = session.collection, session.opened
            source = ready.source
            collection = replace(collection, suite=replace(collection.suite, path=Path("/suite.toml")))
            base = session.base
            return {
                "checks": preflight.collection_digest(collection, source, gates=False),
                "adapter": preflight.recipe_digest(collection, ready, keys.library_versions()),
                "answers": testing.identity(base),
                "copies": str(conversions.copy_folder(Path(), _make_copy_export(), base, testing.write_fake)),
            }


def _make_copy_export() -> Any:
    from harness.suite.tables import Export

    return Export("", "fake", "x", name="copy")


LOOKED = {  # an input -> the keys that hold it
    "test.jsonl": {"checks"},
    "select.jsonl": {"checks"},
    "shots.jsonl": {"checks"},
    "train.jsonl": {"checks", "adapter"},
    "base/config.json": {"checks", "adapter", "answers", "copies"},
    "base/tokenizer.json": {"checks", "adapter", "answers", "copies"},
    "base/chat_template.jinja": {"checks", "adapter", "answers", "copies"},
    "base/generation_config.json": {"checks", "adapter", "answers", "copies"},
    "base/additional_chat_templates/tool.jinja": {"checks", "adapter", "answers", "copies"},
    "harnessfile.py": {"checks", "adapter"},
    "helper.py": {"checks", "adapter"},
}


def edit_content(name: str, text: str) -> str:
    """Return other content of one file, of the same size where that can be."""
    if name.endswith(".jsonl"):
        rows = [json.loads(line) for line in text.splitlines()]
        rows[-1]["target"] = "z" + rows[-1]["target"][1:]
        return format_jsonl(rows)
    if name == "harnessfile.py":
        return text.replace("0.9", "0.8")
    return text + "\n" if name.endswith((".json", ".py")) else text + "x"


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(draw_world(), st.sampled_from(sorted(LOOKED)))
def test_a_changed_input_is_another_key(world: World, name: str) -> None:
    """One file of the rows, the base or the plugins that changes makes another key of all that was made from it."""
    before = collect_keys(world)
    after = collect_keys(World({**world.files, name: edit_content(name, world.files[name])}))
    assert {key for key in before if before[key] != after[key]} == LOOKED[name]


@pytest.mark.parametrize(
    ("override", "held"),
    [
        ("train.skill=0.8", {"checks", "adapter"}),
        ("suite.seed=5", {"checks", "adapter"}),
        ("adapter.loses=0.1", {"checks", "adapter"}),
        ("model.dtype=other", {"checks", "adapter"}),
        ("gate.0.min=0.6", set()),
    ],
)
def test_a_changed_option_is_another_key(override: str, held: set[str]) -> None:
    """Every option that decides what is made is in its key; the margin of a gate is in none."""
    world = _make_example_world()
    before, after = collect_keys(world), collect_keys(world, override)
    assert {key for key in before if before[key] != after[key]} - {"answers", "copies"} == held


@pytest.mark.parametrize(
    ("name", "table", "held"),
    [
        ("train.jsonl", "train.chat_template_kwargs", {"checks", "adapter"}),
        ("test.jsonl", "eval.0.chat_template_kwargs", {"checks"}),
    ],
)
def test_a_template_argument_is_another_key(name: str, table: str, held: set[str]) -> None:
    """What a chat template is given, by the rows or by their table, is in the keys of all that was made with it."""
    world = _make_example_world()
    chats = {
        n: format_jsonl(
            [{**r, "input": [{"role": "user", "content": r["input"]}]} for r in map(json.loads, t.splitlines())]
        )
        for n, t in world.files.items()
        if n.endswith(".jsonl")
    }
    world = World({**world.files, **chats})
    rows = [json.loads(line) for line in world.files[name].splitlines()]
    rows[-1]["chat_template_kwargs"] = {"enable_thinking": True}
    before = collect_keys(world)
    others = [
        collect_keys(World({**world.files, name: format_jsonl(rows)})),
        collect_keys(world, f"{table}.enable_thinking=true"),
    ]
    for after in (*others, collect_keys(world, f"{table}.enable_thinking=false")):
        assert {key for key in before if before[key] != after[key]} - {"answers", "copies"} == held


def _make_example_world() -> World:
    rows = {
        f"{n}.jsonl": format_jsonl(make_rows(n, ["aa", "bb", "cc", "dd"])) for n in ("test", "select", "shots", "train")
    }
    return World({"suite.toml": FULL, **rows, "harnessfile.py": PLUGIN, "helper.py": "TEXT = 1\n"})


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(draw_world(), st.integers(0, 2**31), st.randoms(use_true_random=False))
def test_what_is_no_input_leaves_the_keys_alone(world: World, seconds: int, random: Any) -> None:
    """Where the project lies, the order of its tables and the times of its files are in no key."""
    tables = FULL.strip().split("\n\n")
    random.shuffle(tables)
    moved = World({**world.files, "suite.toml": "\n\n".join(tables) + "\n"})
    inner = World.write

    def old(self: World, folder: Path) -> None:
        inner(self, folder)
        for path in folder.rglob("*"):
            os.utime(path, (seconds, seconds))

    before = collect_keys(world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(World, "write", old)
        assert collect_keys(moved) == before


# -- end to end --------------------------------------------------------------------------------------


def list_trained_folders(suite: Project) -> list[str]:
    """Return the folders of the recipes that were trained."""
    return sorted(p.parent.name for p in (suite.folder / "cache/trained").glob("*/adapter"))


@pytest.mark.slow
def test_a_select_split_that_becomes_the_training_rows_is_found(suite: Project) -> None:
    """What the checks said of another select split is not said of this one."""
    rows = [{**row, "id": f"s{i}", "input": f"select {i} say s{i}", "target": f"s{i}"} for i, row in enumerate(ROWS)]
    suite.write({"suite.toml": SUITE.replace('slices = ["kind"]', 'select = "select.jsonl"'), "select.jsonl": rows})
    assert suite.run().code == 0
    suite.write({"select.jsonl": [{**row, "id": f"t{i}"} for i, row in enumerate(TRAIN)]})
    outcome = suite.run()
    assert outcome.code == 4
    assert "D10" in outcome.out


def test_rows_that_were_not_asked_for_are_measured_later(suite: Project) -> None:
    """A preflight that looked at some evaluations does not stand for all of them."""
    long = [{"input": "word " * 300 + f"shot {i}", "target": f"s{i}"} for i in range(4)]
    prompted = SUITE.replace('slices = ["kind"]', f'fewshot_data = "long.jsonl"\n{SHOTS}')
    suite.write({"suite.toml": prompted, "long.jsonl": long})
    assert suite.run("-k", "merged").code != 4
    assert "longer than the model's context" in suite.run().err


@pytest.mark.slow
def test_changed_trainer_trains_again(suite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer whose code changed, in the same number of bytes and at the same time, has trained nothing yet."""
    monkeypatch.syspath_prepend(str(suite.folder))
    monkeypatch.setitem(sys.modules, "helper", ModuleType("helper"))
    suite.write({"suite.toml": SUITE.replace('[train]\nuse = "fake"', '[train]\nuse = "own"')})
    versions = ((PLUGIN, "A = 1\n"), (PLUGIN.replace("0.9", "0.8"), "A = 1\n"), (PLUGIN, "A = 2\n"))
    for number, (plugin, helper) in enumerate(versions):
        suite.write({"harnessfile.py": plugin, "helper.py": helper})
        for name in ("harnessfile.py", "helper.py"):
            os.utime(suite.folder / name, (10**9, 10**9))
        assert suite.run().code == 0
        assert len(list_trained_folders(suite)) == number + 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"])
def test_a_base_with_another_file_makes_everything_anew(passed: Project, name: str) -> None:
    """What was trained, merged and answered with another template, tokenizer or configuration is not reused."""
    assert "reused" in passed.run().report.facts["training"]
    (passed.folder / "base" / name).write_text('{"a": 1}', "utf-8")
    outcome = passed.run()
    assert outcome.code == 0
    assert "reused" not in outcome.report.facts["training"]
    asked = {r.subject: r.cache_hits for r in outcome.report.results}
    assert (asked["base"], asked["adapter"]) == (0, 0)  # the merge made the same files once more
    assert len(list_trained_folders(passed)) == 2


@pytest.mark.slow
def test_a_candidate_with_another_file_is_merged_anew(suite: Project) -> None:
    """An adapter from elsewhere whose configuration changed is merged again, whatever its weights."""
    folder = write_fake(suite.folder / "mine", 0.9)
    for number in (1, 2, 2):
        (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": number}), "utf-8")
        assert suite.run("--candidate", "mine").code == 0
        assert len(list((suite.folder / "cache/trained").glob("*/merged-original"))) == number


# -- damage ------------------------------------------------------------------------------------------


def _delete_file(path: Path) -> None:
    path.unlink()


def _truncate_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _empty_file(path: Path) -> None:
    path.write_bytes(b"")


def _flip_last_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def _add_foreign_file(path: Path) -> None:
    (path.parent / "notes.txt").write_text("what is this", "utf-8")


def _replace_by_link_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)  # what nobody can open, root neither


def _empty_folder(path: Path) -> None:
    for one in path.parent.iterdir():
        one.unlink()


def _replace_folder_by_file(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_text("", "utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["adapter", "merged-original"])
@pytest.mark.parametrize(
    "damage",
    [
        _delete_file,
        _truncate_file,
        _empty_file,
        _flip_last_bit,
        _add_foreign_file,
        _replace_by_link_loop,
        _empty_folder,
        _replace_folder_by_file,
    ],
)
def test_what_is_damaged_is_set_aside_and_made_again(
    passed: Project, what: str, damage: Callable[[Path], None]
) -> None:
    """No damage to what was trained or merged ends a run: it is told, kept under another name, and made again."""
    [folder] = (passed.folder / "cache/trained").glob(f"*/{what}")
    damage(folder / "model.safetensors")
    outcome = passed.run()
    assert (outcome.code, outcome.err) == (0, "")
    [told] = [line for line in outcome.report.warnings if "renamed to" in line]
    assert folder.relative_to(passed.folder / "cache").as_posix() in told
    assert len(list(folder.parent.glob(f"{what}.damaged-*"))) == 1
    assert passed.run().report.warnings == []


@pytest.mark.slow
@pytest.mark.parametrize("damage", [_delete_file, _truncate_file, _empty_file, _flip_last_bit, _replace_by_link_loop])
def test_a_damaged_note_makes_again(passed: Project, damage: Callable[[Path], None]) -> None:
    """Without a note that can be read nobody knows whether a folder is whole."""
    [note] = (passed.folder / "cache/trained").glob("*/made/merged-original.json")
    damage(note)
    outcome = passed.run()
    assert outcome.code == 0
    assert any("renamed to" in line for line in outcome.report.warnings)
    assert passed.run().report.warnings == []


@pytest.mark.slow
@pytest.mark.parametrize("damage", [_truncate_file, _empty_file, _flip_last_bit, _replace_by_link_loop])
def test_damaged_findings_are_looked_for_again(suite: Project, damage: Callable[[Path], None]) -> None:
    """What checks found is not believed when a byte of it changed."""
    suite.write({"train.jsonl": [*TRAIN, *TRAIN[:3]]})
    first = suite.run()
    found = sorted((suite.folder / "cache/checks").glob("*.json"))
    for path in found:
        damage(path)
    outcome = suite.run()
    assert [f.code for f in outcome.report.findings] == [f.code for f in first.report.findings] != []
    notes = [path for path in found if not path.stem.endswith("-rows")]  # rows are only read beside a note
    assert len([line for line in outcome.report.warnings if "renamed to" in line]) == len(notes)
    assert not [line for line in suite.run().report.warnings if "renamed to" in line]


# -- two runs at once --------------------------------------------------------------------------------

SLOW = """
import time
from pathlib import Path
from harness import hookimpl, testing

def train(ref, adapter, rows, out, *, progress, seed):
    with Path("trained.txt").open("a") as f:
        f.write("begun\\n")
    while not Path("go").exists():
        time.sleep(0.02)
    return testing.train(ref, adapter, rows, out, progress=progress, seed=seed)

@hookimpl
def harness_trainers():
    return {"slow": train}
"""


def start(suite: Project, out: str) -> subprocess.Popen[str]:
    """Start a run in a process of its own."""
    code = "import sys; from harness.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "run", "suite.toml", "-p", "harness.testing", "--out", out, "--no-export"]
    with (suite.folder / out).with_suffix(".txt").open("w") as told:
        return subprocess.Popen(command, cwd=suite.folder, stdout=told, text=True)


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
@pytest.mark.parametrize("killed", [False, True])
def test_two_runs_of_one_recipe_train_once(suite: Project, killed: bool) -> None:
    """The second waits, says so and takes what the first made; when that is killed, it trains itself."""
    suite.write({"suite.toml": SUITE.replace('[train]\nuse = "fake"', '[train]\nuse = "slow"'), "harnessfile.py": SLOW})
    runs = {name: start(suite, name) for name in ("one", "two")}
    until, waits = time.monotonic() + 120, ""
    while not waits:
        assert time.monotonic() < until
        time.sleep(0.05)
        told = {name: (suite.folder / f"{name}.txt").read_text("utf-8") for name in runs}
        waits = next((name for name in runs if "another run is creating this" in told[name]), "")
    other = "two" if waits == "one" else "one"
    if killed:
        runs[other].kill()
    (suite.folder / "go").touch()
    assert runs[other].wait(timeout=120) == (-9 if killed else 0)
    assert runs[waits].wait(timeout=120) == 0
    assert len((suite.folder / "trained.txt").read_text("utf-8").splitlines()) == 1 + killed
    assert len(list_trained_folders(suite)) == 1


def test_a_held_folder_is_waited_for(tmp_path: Path) -> None:
    """A lock that is free costs no line; one that somebody holds costs one."""
    told: list[str] = []
    with artifact_cache.lock_work_folder(tmp_path / "work", told.append):
        assert not told
        with (tmp_path / "work.lock").open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with artifact_cache.lock_work_folder(tmp_path / "work", told.append):
        assert not told


# -- code --------------------------------------------------------------------------------------------


@contextmanager
def install_package(folder: Path) -> Iterator[Path]:
    """Put a package with a resource and a module of its own on the path."""
    (folder / "plug/data").mkdir(parents=True)
    (folder / "plug/__init__.py").write_text("import plughelp\n\nclass Plugin:\n    pass\n", "utf-8")
    (folder / "plug/data/prompt.txt").write_text("be kind", "utf-8")
    (folder / "plughelp.py").write_text("A = 1\n", "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        try:
            yield folder
        finally:
            for name in ("plug", "plughelp"):
                sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["plug/__init__.py", "plug/data/prompt.txt", "plughelp.py"])
def test_code_is_known_by_content(tmp_path: Path, name: str) -> None:
    """A plugin's modules, resources and local imports count by what is in them, be it a module or an instance."""
    with install_package(tmp_path):
        import plug  # type: ignore[import-not-found]

        for one in (plug, plug.Plugin(), plug.Plugin):
            path = tmp_path / name
            before = keys.digest_code([one])
            os.utime(path, (10**9, 10**9))
            assert keys.digest_code([one]) == before
            content = path.read_bytes()
            path.write_bytes(content.replace(b"i", b"j", 1) if b"i" in content else b"A = 2\n")
            os.utime(path, (10**9, 10**9))
            assert keys.digest_code([one]) != before
            path.write_bytes(content)


@pytest.mark.slow
def test_how_models_are_asked_is_code(tmp_path: Path) -> None:
    """What answers are kept under has the code that cuts requests into pieces, wherever that lies."""
    code = "import sys; sys.path[:0] = sys.argv[1:]; from harness.answers import keys; print(keys.digest_code([]))"

    def known(*places: Path) -> str:
        command = [sys.executable, "-c", code, *map(str, places)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    own = Path(harness.__file__).parent
    shutil.copytree(own, tmp_path / own.name, ignore=shutil.ignore_patterns("__pycache__"))
    before = known(tmp_path)
    assert before == known()
    chunks = tmp_path / own.name / "workers/chunks.py"
    chunks.write_text(chunks.read_text("utf-8").replace("CHUNK_CHARS = 1 << 15", "CHUNK_CHARS = 1 << 14"), "utf-8")
    assert known(tmp_path) != before


@pytest.mark.slow
def test_code_that_cannot_be_read_is_no_other_processes() -> None:
    """What was made by code without a file has a key in this process alone."""
    spaces: dict[str, Any] = {"__name__": "nowhere"}
    exec("def train():\n    pass\n", spaces)
    command = [sys.executable, "-c", PRINTED]
    there = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(there) == 2
    assert keys.digest_code([spaces["train"]]) == keys.digest_code([spaces["train"]])


PRINTED = """
from harness.answers import keys
spaces = {"__name__": "nowhere"}
exec("def train():\\n    pass\\n", spaces)
print(keys.digest_code([spaces["train"]]))
"""


def test_a_file_that_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    """A model's folder with weights that are cut short is one line."""
    folder = write_fake(tmp_path / "m", 0.5)
    _truncate_file(folder / "model.safetensors")
    with pytest.raises(UsageError, match=": is truncated"):
        keys.describe_model(ModelRef("m", str(folder)))


# -- the folder --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "told"), [(0o777, "is writable by everybody; chmod go-w"), (0o775, "is writable by group")]
)
def test_a_cache_that_others_can_write_is_refused(
    suite: Project, mode: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can put an answer into the cache decides a verdict, so it is one line and exit code 4."""
    monkeypatch.setattr("harness.files._is_private", lambda _: False)
    folder = suite.folder / "cache"
    folder.mkdir()
    folder.chmod(mode)
    for _ in range(2):
        outcome = suite.run()
        assert outcome.code == 4
        assert told in outcome.err
        assert len(outcome.err.splitlines()) == 1
        link = suite.folder / "link"
        link.unlink(missing_ok=True)
        link.symlink_to(folder)
        monkeypatch.setenv("HARNESS_CACHE", str(link))
    folder.chmod(0o755)
    assert suite.run().code == 0


def test_a_group_of_ones_own_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every user has a group of their own, a umask of 002 opens a folder to nobody."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o775)
    assert cache_dir() == tmp_path / "cache"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("name", ["", "responses.sqlite", "attempts.jsonl", "trained"])
def test_what_belongs_to_another_user_is_refused(passed: Project, name: str) -> None:
    """A cache folder, or what lies in it, that another user owns is one line and exit code 4."""
    os.chown(passed.folder / "cache" / name, 12345, -1)
    outcome = passed.run()
    assert outcome.code == 4
    assert "belongs to user 12345, who could plant answers there" in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_deep_folder_that_others_can_write_is_refused(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merged model lies three levels deep, and may be replaced there as well."""
    cache = project.folder / "own"
    (cache / "trained" / "a1b2" / "merged-original").mkdir(mode=0o755, parents=True)
    cache.chmod(0o755)
    (cache / "trained" / "a1b2" / "merged-original").chmod(0o777)
    monkeypatch.setenv("HARNESS_CACHE", str(cache))
    outcome = project.harness("cache")
    assert (outcome.code, 'contains "trained/a1b2/merged-original"' in outcome.err) == (4, True)


def test_a_file_that_others_can_write_is_refused(passed: Project) -> None:
    """In a folder that others may enter no file may be theirs to write; in one that they may not, it is no matter."""
    (passed.folder / "cache/responses.sqlite").chmod(0o666)
    assert passed.run().code == 0
    (passed.folder / "cache").chmod(0o755)
    outcome = passed.run()
    assert outcome.code == 4
    assert 'contains "responses.sqlite", which is writable by everybody; chmod go-w' in outcome.err
    (passed.folder / "cache/responses.sqlite").chmod(0o600)
    (passed.folder / "cache/models/stranger").mkdir(parents=True)
    (passed.folder / "cache/models/stranger").chmod(0o777)
    outcome = passed.run()
    assert (outcome.code, 'contains "models/stranger", which is writable by everybody' in outcome.err) == (4, True)


@pytest.mark.parametrize("what", ["file", "dangling", "loop", "below a file", "long"])
def test_a_cache_that_cannot_be_is_one_line(suite: Project, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder that is none, and cannot be made, is one line and exit code 4."""
    path = suite.folder / "cache"
    if what == "file":
        path.write_text("", "utf-8")
    if what in ("dangling", "loop"):
        path.symlink_to("cache" if what == "loop" else "nowhere/at/all")
    if what == "below a file":
        (suite.folder / "f").write_text("", "utf-8")
        monkeypatch.setenv("HARNESS_CACHE", str(suite.folder / "f/cache"))
    if what == "long":
        monkeypatch.setenv("HARNESS_CACHE", str(suite.folder / ("x" * 300)))
    outcome = suite.run()
    assert outcome.code == 4
    assert "HARNESS_CACHE to another folder" in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_new_cache_is_its_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder that is made can be read by nobody else, whatever the umask."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "a/b"))
    before = os.umask(0)
    try:
        assert cache_dir().stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)
