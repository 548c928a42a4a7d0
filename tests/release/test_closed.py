"""`harness verify` is a closed package: what it loads can be read in a day, and nothing of it is the producer's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.testing import SUITE
from tests.helpers.suites import run_commands

pytest.importorskip("securesystemslib", reason="the extra `sign` is not installed")

LOADED = {
    "harness": ("artifacts errors files gates lazy plugin_errors portable records release schema stats texts version"),
    "artifacts": "attestation digests folders formats gguf model_files safetensors shapes stamps",
    "gates": (
        "agreement attempts clusterings contamination context decide gate_input hypothesis inference "
        "labels min_rows notes outcome paired_rows_needed sample_size waivers"
    ),
    "portable": "locks opening",
    "records": (
        "claims completion figures metrics outcomes parts result_text samples scales suite_header "
        "verdict_text verdicts waivers"
    ),
    "records.claims": "bound difference failures gate loss_rate",
    "records.parts": (
        "approximate attempts cap clusters guarded labels leaked needed part reason recipe rows slices truncated waived"
    ),
    "release": (
        "evidence_rows ledger_evidence lock_reader policy policy_checks recomputation served source verified verify"
    ),
    "stats": (
        "arrays autocorrelation binomials cluster_means crossed eprocess hypothesis_tests inputs "
        "mean_tests multiple_testing power ratio result rule_of_three seeds shares significance tango "
        "two_phase unconditional values"
    ),
    "texts": "counts escaping json_text numbers secrets shortening",
}
VERIFY = """
import sys
from pathlib import Path
from harness.release.policy import read_policy
from harness.release.verify import verify_export

found = verify_export(Path("exports/fake"), read_policy(Path("policy.toml")))
assert found.ok, found.refused
print(*(name for name in sys.modules if name.partition(".")[0].startswith("harness")))
"""


@pytest.mark.slow
def test_verification_loads_these_modules(tmp_path: Path) -> None:
    """No plugin, suite reader, pipeline or report is among what a signed export is verified with."""
    lines = ("run suite.toml -q", "keygen release", "sign exports/fake --key release.key")
    run_commands(tmp_path, *lines, suite=SUITE)
    (tmp_path / "policy.toml").write_text(
        'suites = ["fake"]\n' + (tmp_path / "release.pub").read_text("utf-8"), "utf-8"
    )
    done = subprocess.run([sys.executable, "-c", VERIFY], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    packages = {"harness", *(f"harness.{package}" for package in LOADED if package != "harness")}
    prefixes = {package: "harness." if package == "harness" else f"harness.{package}." for package in LOADED}
    modules = {f"{prefixes[package]}{name}" for package, names in LOADED.items() for name in names.split()}
    assert set(done.stdout.split()) == modules | packages
