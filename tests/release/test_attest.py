"""`verify --as`: what was verified is told in the words of others, whose own tools take it, and nothing else is."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from harness.artifacts import attestation
from harness.artifacts.attestation import CLAIMS, EVIDENCE, GATES, LOCK, MANIFEST, MODEL
from harness.artifacts.digests import file_digests, root_digest
from harness.cli.main import main
from harness.errors import UsageError
from harness.pipeline.run import Options
from harness.release.attest import make_writer
from harness.release.verify import verify_export
from harness.testing import SUITE
from tests.helpers.exports import reseal
from tests.helpers.late import import_late
from tests.helpers.suites import EXPORTER, WHOLE, run_commands

pytest.importorskip("securesystemslib", reason="the extra `sign` is not installed")

pytestmark = pytest.mark.xdist_group("attested export")

validation, schema = import_late("cyclonedx.validation.json"), import_late("cyclonedx.schema")
hashing, signing, verifying = (import_late(f"model_signing.{name}") for name in ("hashing", "signing", "verifying"))
SIGNED = ("keygen release", "sign exports/fake --key release.key", "keygen deploy")
Told = Callable[..., tuple[int, str, str]]


def run_and_sign(folder: Path, suite: str, *lines: str, demands: str = "") -> Path:
    """Run a suite, sign its export, and write the policies of the one who deploys it and of one who trusts him."""
    run_commands(folder, *lines, *SIGNED, suite=suite, files={"harnessfile.py": EXPORTER})
    keys = [(folder / f"{name}.pub").read_text("utf-8") for name in ("release", "deploy")]
    (folder / "policy.toml").write_text(f'suites = ["fake"]\n{demands}\n{keys[0]}', "utf-8")
    (folder / "next.toml").write_text('suites = ["fake"]\n' + "".join(keys), "utf-8")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a signed export, made once."""
    folder = tmp_path_factory.mktemp("attested")
    return run_and_sign(
        folder, SUITE, "run suite.toml -q --set train.skill=0.95 --no-cache", demands="recomputed = 1.0"
    )


@pytest.fixture
def there(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which commands run."""
    folder = shutil.copytree(made, tmp_path / "there", symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    return folder


@pytest.fixture
def told(there: Path, capsys: pytest.CaptureFixture[str]) -> Told:
    """`harness verify exports/fake` with more words: its exit code, and what it printed on both streams."""

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["verify", "exports/fake", *words])
        return code, *capsys.readouterr()

    return call


def write_ec_key(there: Path, curve: Any) -> None:
    """Write ec.key and ec.pub, as openssl does."""
    key = ec.generate_private_key(curve)
    pem, kind = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
    (there / "ec.key").write_bytes(key.private_bytes(pem, kind, serialization.NoEncryption()))
    (there / "ec.key").chmod(0o600)
    public = serialization.PublicFormat.SubjectPublicKeyInfo
    (there / "ec.pub").write_bytes(key.public_key().public_bytes(pem, public))


def compute_root(there: Path) -> str:
    """Return the root digest of the model that is there."""
    files = file_digests(there / "exports/fake" / MODEL)
    return root_digest({name: str(about["sha256"]) for name, about in files.items()})


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--as", "cyclondx"), '--as "cyclondx": is not a known format; did you mean "cyclonedx"?'),
        (("--as", "cyclonedx", "--json"), "--as prints a document of its own; remove --json"),
        (("--as", "cyclonedx", "--sign-with", "deploy.key"), "--as cyclonedx is not signed"),
        (("--as", "model-signing"), "--as model-signing writes a signature; add --sign-with FILE, a private EC key"),
        (
            ("--as", "model-signing", "--sign-with", "deploy.key"),
            ("--sign-with deploy.key: is not an EC key such as P-256, which model-signing needs; create one with"),
        ),
        (
            ("--as", "model-signing", "--sign-with", "deploy.pub"),
            "--sign-with deploy.pub: is not a private key in PEM:",
        ),
        (("--as", "model-signing", "--sign-with", "none.key"), "--sign-with none.key: cannot be read"),
        (
            ("--sign-with", "deploy.key"),
            "--sign-with signs the document of --as; add --as, or use harness sign for the export",
        ),
    ],
)
def test_what_cannot_be_told_is_one_line(there: Path, told: Told, words: tuple[str, ...], says: str) -> None:
    """A format or a key that is none ends with exit 4, and prints nothing."""
    code, out, err = told(*words)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 4 and len(errors) == 1 and says in errors[0]
    assert "--as" not in words or out == "" or json.loads(out)["errors"]


# -- CycloneDX -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_bill_of_materials_is_valid(there: Path, told: Told) -> None:
    """It is CycloneDX 1.6 to their own validator, has every file with its digest, and the numbers of the gates."""
    code, out, _ = told("--policy", "policy.toml", "--as", "cyclonedx")
    assert code == 0
    assert validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(out) is None
    bom = json.loads(out)
    model = bom["metadata"]["component"]
    assert model["hashes"] == [{"alg": "SHA-256", "content": compute_root(there)}]
    listed = [*model["components"], *(c for c in bom["components"] if c["type"] == "file")]
    manifest = json.loads((there / f"exports/fake/{EVIDENCE}/{MANIFEST}").read_text("utf-8"))
    sums = {name: about["sha256"] for name, about in manifest["files"].items()}
    assert {c["name"]: c["hashes"][0]["content"] for c in listed} == sums
    (gate,) = json.loads((there / f"exports/fake/{EVIDENCE}/{GATES}").read_text("utf-8"))
    (metric,) = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert (metric["type"], float(metric["value"])) == ("qa.exact_match", gate["value"])
    assert float(metric["confidenceInterval"]["lowerBound"]) == gate["lower"]
    (claim,) = bom["declarations"]["claims"]
    assert (claim["target"], claim["predicate"]) == (model["bom-ref"], "qa.exact_match at least 0.5")
    assert told("--policy", "policy.toml", "--as", "cyclonedx")[1] == out


@pytest.mark.slow
def test_a_bill_of_materials_tells_of_ancestors_and_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy has its parent and the base, the change from what it is compared with, and what failed as a limit."""
    hope = '\n[[gate]]\nid = "hope"\nmetric = "qa.exact_match"\nmin = 0.1\nseverity = "warn"\nslice = "kind=*"\n'
    never = '\n[[gate]]\nid = "never"\nmetric = "qa.exact_match"\nmin = 1\nseverity = "warn"\n'
    folder = tmp_path / "copied"
    folder.mkdir()
    run_commands(folder, "run suite.toml -q", suite=WHOLE + hope + never, files={"harnessfile.py": EXPORTER})
    monkeypatch.chdir(folder)
    out = make_writer("cyclonedx", None)(verify_export(Path("exports/fewer")))
    assert validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(out) is None
    model = json.loads(out)["metadata"]["component"]
    assert [one["name"] for one in model["pedigree"]["ancestors"]] == ["merged", "base"]
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {m["type"] for m in metrics} == {"qa.exact_match", "qa.exact_match, change from merged"}
    gates = {g["gate"]: g for g in json.loads(Path(f"exports/fewer/{EVIDENCE}/{GATES}").read_text("utf-8"))}
    sliced = [m for m in metrics if "slice" in m]
    assert {m["slice"] for m in sliced} == {"kind=a", "kind=b"}
    assert [(m["slice"], float(m["value"])) for m in sliced if "value" in m] == [
        (gates["hope"]["parts"]["slices"]["driver"], gates["hope"]["value"])
    ]
    limits = model["modelCard"]["considerations"]["technicalLimitations"]
    assert any(limit.startswith('gate "never" is ') for limit in limits)


def test_nothing_is_told_of_what_was_refused(there: Path, told: Told) -> None:
    """No bill of materials and no signature is written of an export that did not pass."""
    write_ec_key(there, ec.SECP256R1())
    (there / "exports/fake/model/config.json").write_text("{ }", "utf-8")
    assert told("--as", "cyclonedx")[:2] == (7, "")
    assert told("--as", "model-signing", "--sign-with", "ec.key")[:2] == (7, "")


def test_evidence_that_lacks_what_is_asked_is_one_line(there: Path, told: Told) -> None:
    """What its writer left out, and verify does not need, is no traceback."""
    path = there / f"exports/fake/{EVIDENCE}/{LOCK}"
    lock = json.loads(path.read_text("utf-8"))
    del lock["packages"]
    path.write_text(json.dumps(lock), "utf-8")
    reseal(there / "exports/fake")
    code, out, err = told("--as", "cyclonedx")
    assert (code, out) == (7, "")
    assert '"evidence/suite.lock.json" is malformed: packages is missing' in err


def test_what_changed_after_it_was_verified_is_not_told(there: Path) -> None:
    """What is written rests on the bytes that verify read."""
    found = verify_export(Path("exports/fake"))
    path = there / f"exports/fake/{EVIDENCE}/{GATES}"
    path.write_text(path.read_text("utf-8") + "\n", "utf-8")
    with pytest.raises(UsageError, match=r"gates\.json changed while it was verified; verify it again"):
        make_writer("cyclonedx", None)(found)


# -- OpenSSF model signing -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_their_tool_takes_our_signature(there: Path, told: Told, curve: Any) -> None:
    """`model_signing verify key` accepts it, and refuses a file that was changed, added or taken away."""
    write_ec_key(there, curve)
    code, out, _ = told("--policy", "policy.toml", "--as", "model-signing", "--sign-with", "ec.key")
    assert code == 0
    (there / "model.sig").write_text(out, "utf-8")
    model = there / "exports/fake/model"

    def check() -> None:
        verifying.Config().use_elliptic_key_verifier(public_key="ec.pub").verify(model, "model.sig")

    check()
    (model / "more.json").write_text("{}", "utf-8")
    with pytest.raises(ValueError, match=r"Extra files found in model 'model': more\.json"):
        check()
    (model / "more.json").unlink()
    (model / "config.json").write_text("{ }", "utf-8")
    with pytest.raises(ValueError, match=r"Hash mismatch for 'config\.json'"):
        check()


@pytest.mark.slow
def test_a_signature_of_their_tool_is_about_our_root(there: Path) -> None:
    """What they sign, keyless or not, has the digest that our claims are about."""
    write_ec_key(there, ec.SECP256R1())
    signing.Config().use_elliptic_key_signer(private_key=there / "ec.key").sign(
        there / "exports/fake/model", there / "their.sig"
    )
    bundle = json.loads((there / "their.sig").read_text("utf-8"))
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    assert statement["subject"][0]["digest"]["sha256"] == verify_export(there / "exports/fake").root


# -- provenance ------------------------------------------------------------------------------------


def read_statements(export: Path) -> list[dict[str, Any]]:
    """Return what is claimed of an export, each once."""
    envelopes = attestation.read_envelopes((export / EVIDENCE / CLAIMS).read_text("utf-8"))
    return [json.loads(payload) for payload in dict.fromkeys(e.payload for e in envelopes)]


def test_provenance_says_how_the_run_was_called(there: Path) -> None:
    """The options of the command, and what it was made of, by digest; packages are in the lock it points to."""
    export = there / "exports/fake"
    (provenance,) = (s for s in read_statements(export) if s["predicateType"] == "https://slsa.dev/provenance/v1")
    built, lock = provenance["predicate"]["buildDefinition"], json.loads((export / EVIDENCE / LOCK).read_text("utf-8"))
    options = {"--set": ["train.skill=0.95"], "--no-cache": True, "-p": ["harness.testing"]}
    assert built["externalParameters"] == {"suite": "suite.toml", "options": options}
    materials = {one["name"]: one["digest"]["sha256"] for one in built["resolvedDependencies"]}
    assert materials[f"{EVIDENCE}/{LOCK}"] == file_digests(export)[f"{EVIDENCE}/{LOCK}"]["sha256"]
    assert materials["model base"] == lock["subjects"]["base"]
    assert materials["rows qa"] == lock["data"]["qa"]["sha256"]
    assert {"model adapter", "rows train", "plugin hf", "plugin harnessfile.py"} <= materials.keys()
    assert "model merged" not in materials  # which was made, and of nothing that it is
    assert json.loads((export / EVIDENCE / MANIFEST).read_text("utf-8"))["invocation"] == options


def test_evidence_without_provenance_is_refused(there: Path) -> None:
    """Evidence says how its run was called."""
    export = there / "exports/fake"
    path = export / EVIDENCE / MANIFEST
    manifest = json.loads(path.read_text("utf-8"))
    del manifest["invocation"]
    path.write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(KeyError):
        reseal(export)
    found = verify_export(export)
    assert not found.ok and "invocation" in found.refused


def test_an_option_cannot_be_denied(there: Path) -> None:
    """An invocation that was edited is not the one that was claimed."""
    export = there / "exports/fake"
    path = export / EVIDENCE / MANIFEST
    path.write_text(path.read_text("utf-8").replace("train.skill=0.95", "train.skill=0.55"), "utf-8")
    assert "claims.intoto.jsonl is about another export" in verify_export(export).refused


def test_what_is_told_of_a_command_holds_no_secret() -> None:
    """Values under a secret name are struck, of any type and depth; what decides nothing is not told."""
    overrides = ("model.api_key=abc", "model.headers={a = 'b'}", "eval.0.options={password='x'}", "train.seed=3")
    asked = Options(overrides=overrides, out=Path("/somewhere"), ignore=("D10",), cache=False).to_json()
    assert asked == {
        "--set": [
            'model.api_key="(secret)"',
            'model.headers={"a": "(secret)"}',
            'eval.0.options={"password": "(secret)"}',
            "train.seed=3",
        ],
        "--ignore": ("D10",),
        "--no-cache": True,
    }
