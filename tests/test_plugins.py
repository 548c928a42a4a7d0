"""Plugins: found, checked, refused."""

from __future__ import annotations

import pytest

from harness.testing import ROWS, SUITE, TRAIN, Project

HEAD = "from harness import hookimpl, metric, Score\n"
BROKEN = {
    "a syntax error": ("def broken(:\n", "harnessfile.py:1:"),
    "an import that fails": ("import no_such_module\n", "cannot be imported: harnessfile.py:1: ModuleNotFoundError"),
    "two plugins of one name": (
        HEAD + "@hookimpl\ndef harness_evaluators():\n    return {'exact_match': lambda subject, samples: []}\n",
        'evaluator "exact_match": is provided by two plugins',
    ),
    "a misspelt hook": (
        HEAD + "@hookimpl\ndef harness_evaluator():\n    return {}\n",
        '" is not a hook; did you mean "harness_evaluators"?',
    ),
    "no dict": (
        HEAD + "@hookimpl\ndef harness_evaluators():\n    return [1]\n",
        "did not return a dict of name -> callable",
    ),
    "a hook with a wrong argument": (
        HEAD + "@hookimpl\ndef harness_item_finish(runn):\n    pass\n",
        "harness_item_finish",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_harnessfile_is_one_clear_line(project: Project, case: str) -> None:
    """A plugin that is wrong exits 4 before anything slow, with its name."""
    text, told = BROKEN[case]
    project.write({"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": TRAIN, "harnessfile.py": text})
    outcome = project.run()
    assert outcome.code == 4
    assert told in outcome.err
    assert "Traceback" not in outcome.err


def test_blocked_plugin_is_not_there(project: Project) -> None:
    """-p no:domain leaves the plugin out, and what it provided is unknown."""
    project.write({"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": TRAIN})
    assert 'no evaluator "exact_match"' in project.run("-p", "no:domain").err
    outcome = project.run("-p", "no:domian")
    assert outcome.code == 4
    assert '-p no:domian: there is no plugin "domian"; did you mean "domain"?' in outcome.err


def test_plugin_that_is_not_there(project: Project) -> None:
    """-p NAME that cannot be imported exits 4."""
    project.write({"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": TRAIN})
    assert 'plugin "nowhere": cannot be imported' in project.run("-p", "nowhere").err


def test_plugins_lists_names_and_options(project: Project) -> None:
    """`harness plugins NAME` prints the options with types and defaults, read from the signature."""
    outcome = project.harness("plugins", "exact_match")
    assert outcome.code == 0
    assert "max_new_tokens: an integer, default 32" in outcome.out


def test_local_data_source(project: Project) -> None:
    """A harnessfile's harness_read_samples serves data of its own scheme."""
    plugin = HEAD + (
        "@hookimpl\ndef harness_read_samples(path):\n"
        "    if path == 'mine:test':\n"
        "        return [{'input': f'{i} say w{i}', 'target': f'w{i}', 'kind': 'a'} for i in range(40)]\n"
    )
    suite = SUITE.replace("test.jsonl", "mine:test")
    outcome = project.write({"suite.toml": suite, "train.jsonl": TRAIN, "harnessfile.py": plugin}).run()
    assert outcome.code == 0
    assert "40 rows" in outcome.out
