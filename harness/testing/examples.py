"""A suite of fakes that passes and ships, and its rows: what tests break, one thing each."""

ROWS = [{"id": f"q{i}", "input": f"question {i} say w{i}", "target": f"w{i}", "kind": "ab"[i % 2]} for i in range(60)]
TRAIN = [{"input": f"train {i} say t{i}", "target": f"t{i}"} for i in range(20)]
SUITE = """
[suite]
name = "fake"

[model]
use = "fake"
path = "base"

[adapter]
use = "fake"

[train]
use = "fake"
data = "train.jsonl"

[[eval]]
name = "qa"
use = "exact_match"
data = "test.jsonl"
slices = ["kind"]

[[gate]]
id = "floor"
metric = "qa.exact_match"
min = 0.5

[[export]]
use = "safetensors"
to = "exports/fake"
"""
