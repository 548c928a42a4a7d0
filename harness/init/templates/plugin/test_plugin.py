"""Test the plugin with fake models: `good` answers with the prompt's last word, and is right on 95 % of rows."""

from harness.testing import Project

pytest_plugins = ["harness.testing"]
SUITE = """
[suite]
name = "example"

[model]
use = "fake"
path = "base"

[[eval]]
name = "polite"
use = "contains_word"
data = "rows.jsonl"
word = "please"

[[gate]]
id = "is polite"
metric = "polite.contains"
min = 0.5
"""
ROWS = [{"id": i, "input": f"question {i}: say please"} for i in range(60)]


def test_a_good_model_passes(project: Project) -> None:
    project.write({"suite.toml": SUITE, "rows.jsonl": ROWS})
    assert project.run("--candidate", "good").verdict("is polite") == "PASS"


def test_a_missing_word_fails(project: Project) -> None:
    project.write({"suite.toml": SUITE.replace('"please"', '"sorry"'), "rows.jsonl": ROWS})
    assert project.run("--candidate", "good").verdict("is polite") == "FAIL"
