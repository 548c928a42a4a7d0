"""What is handed to `harness run --candidate` or `harness verify` and is broken or means ill: one line, and no export.

Real files of a real model, by the command a person would give; `tests/release/test_verify.py` has more of what verify
refuses.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from harness.artifacts.digests import file_digests
from harness.artifacts.formats import SUFFIXES
from harness.testing import ROWS, CommandOutcome, Project
from tests.helpers.suites import REAL, TEXTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("broken candidates"),
    pytest.mark.usefixtures("warm_children"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

ADAPTER, MODEL = "adapter_model.safetensors", "model.safetensors"
Edit = Callable[[Path], None]


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the base "tiny", a good adapter for it, and the two merged as "merged"."""
    from harness_lora import lora
    from tests.helpers.adapters import make_adapter

    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(tiny_model, folder / "tiny")
    make_adapter(folder / "tiny", lora(), folder / "adapter")
    (folder / "merged").mkdir()
    lora().merge(str(folder / "tiny"), folder / "adapter", folder / "merged", variant="original")
    return folder


@pytest.fixture
def ready(made: Path, project: Project) -> Project:
    """A project with the suite, its rows, the models, and the folder of an export that is there already."""
    shutil.copytree(made, project.folder, dirs_exist_ok=True)
    project.write({"suite.toml": REAL, "test.jsonl": ROWS[:6], "texts.jsonl": TEXTS})
    return project


def load_tensors(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(path)


def reseat(name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Edit:
    """Return the edit that replaces the tensors of a file."""

    def edit(folder: Path) -> None:
        from safetensors.torch import save_file

        save_file(change(load_tensors(folder / name)), folder / name, {"format": "pt"})

    return edit


def poison(name: str, value: float, like: str) -> Edit:
    """Return the edit that puts a number into the first tensor whose name has `like` in it."""

    def change(weights: dict[str, Any]) -> dict[str, Any]:
        next(w for n, w in weights.items() if like in n).view(-1)[3] = value
        return weights

    return reseat(name, change)


def cut(name: str) -> Edit:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - 100)


def leave_broken_link(name: str) -> Edit:
    """Return the edit that leaves of a file a link to what is no longer there, as in a cache that was cleaned."""

    def edit(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to("blob")

    return edit


def write_as_pickle(name: str) -> Edit:
    """Return the edit that writes the tensors as a pickle under a name; loading it would leave a file behind."""

    def edit(folder: Path) -> None:
        for path in folder.glob("*.safetensors"):
            path.unlink()
        (folder / name).write_bytes(b"cposix\nsystem\n(S'touch ran'\ntR.")

    return edit


def overlap(name: str) -> Edit:
    """Return the edit that lets a tensor begin within another, as long as before."""

    def edit(folder: Path) -> None:
        data = (folder / name).read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        last = max((n for n in header if n != "__metadata__"), key=lambda n: int(header[n]["data_offsets"][0]))
        begin, end = header[last]["data_offsets"]
        header[last]["data_offsets"] = [begin - 4, end - 4]
        text = json.dumps(header).encode()
        (folder / name).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length : -4])

    return edit


def configure(name: str, **changes: Any) -> Edit:
    """Return the edit that changes keys of a JSON file."""

    def edit(folder: Path) -> None:
        known = json.loads((folder / name).read_text("utf-8")) if (folder / name).is_file() else {}
        (folder / name).write_text(json.dumps({**known, **changes}), "utf-8")

    return edit


def put(name: str, text: str) -> Edit:
    return lambda folder: (folder / name).write_text(text, "utf-8") and None


def set_chat_template(text: str) -> Edit:
    return put("chat_template.jinja", text)


def chain_edits(*edits: Edit) -> Edit:
    def edit(folder: Path) -> None:
        for one in edits:
            one(folder)

    return edit


def add_shard_index(file: str) -> Edit:
    """Return the edit that adds an index of shards in which one tensor lies in another file."""

    def edit(folder: Path) -> None:
        names = dict.fromkeys(load_tensors(folder / MODEL), MODEL)
        text = json.dumps({"metadata": {}, "weight_map": {**names, "lm_head.weight": file}})
        (folder / f"{MODEL}.index.json").write_text(text, "utf-8")

    return edit


CODE = put("m.py", "open('ran', 'w')\nclass M: pass\n")
TEMPLATES = chain_edits(
    put("chat_template.jinja", "{{ a }}"), configure("tokenizer_config.json", chat_template="{{ b }}")
)
UP = "layers.0.mlp.up_proj"
ADAPTERS: dict[str, tuple[Edit, str]] = {
    "for other weights": (configure("harness-adapter.json", base_digest="b" * 64), "was trained on weights bbbb"),
    "for other layers": (
        reseat(ADAPTER, lambda ws: {n.replace("layers.1.", "layers.7."): w for n, w in ws.items()}),
        'PEFT cannot place 14 of its tensors, for instance "base_model.model.model.layers.7.',
    ),
    "of another shape": (
        reseat(ADAPTER, lambda ws: {n: w[..., :8].contiguous() for n, w in ws.items()}),
        '"model.layers.0.mlp.down_proj" has shape [64, 8], but [64, 128] in the base',
    ),
    "of another rank": (configure("adapter_config.json", r=3), "does not fit the base"),
    "with half of a pair": (
        reseat(ADAPTER, lambda ws: {n: w for n, w in ws.items() if f"{UP}.lora_B" not in n}),
        f'"model.{UP}" has shape [64], but [128, 64] in the base',
    ),
    "with NaN": (poison(ADAPTER, float("nan"), "lora_B"), "1 of 1024 weights are not finite"),
    "with infinity": (poison(ADAPTER, float("inf"), "lora_A"), "1 of 2048 weights are not finite"),
    "with no tensor": (reseat(ADAPTER, lambda _: {}), "has no adapter_model.safetensors"),
    "as a pickle": (write_as_pickle("adapter_model.bin"), "pickles are not read"),
    "as a pickle under another name": (
        write_as_pickle(ADAPTER),
        "cannot be read: is not a safetensors file, or is truncated",
    ),
    "with code to import": (
        configure("adapter_config.json", auto_mapping={"base_model_class": "M", "parent_library": "m"}),
        'adapter_config.json: "auto_mapping" makes a loader run code, and',
    ),
    "with a field of tomorrow": (
        configure("adapter_config.json", use_new=1),
        '"use_new", which the installed PEFT does not know',
    ),
    "with a rank in words": (configure("adapter_config.json", r="x"), 'has r = "x"; it must be an integer'),
    "with no scale": (configure("adapter_config.json", lora_alpha=float("nan")), "is not JSON: it holds NaN"),
    "with a list of ranks": (
        configure("adapter_config.json", rank_pattern=[1]),
        "has rank_pattern = [1]; it must be a table",
    ),
    "with a note that is none": (put("harness-adapter.json", "[]"), "its harness-adapter.json cannot be read"),
    "with keys of memory": (
        reseat(ADAPTER, lambda ws: {n.replace("A.weight", "A.default.weight"): w for n, w in ws.items()}),
        'lora_A.default.weight" contains the name of an adapter in memory',
    ),
    "cut short": (cut(ADAPTER), "is truncated"),
    "with overlapping tensors": (overlap(ADAPTER), "overlaps another"),
    "of no LoRA": (configure("adapter_config.json", peft_type="IA3"), "is of type IA3, but only LORA is supported"),
    "without JSON": (put("adapter_config.json", "{"), "adapter_config.json: is not JSON"),
    "of a list": (put("adapter_config.json", "[]"), "adapter_config.json: is not a JSON object"),
}
MERGED: dict[str, tuple[Edit, str]] = {
    "of another shape": (configure("config.json", hidden_size=32), "config.json needs [261, 32]"),
    "with NaN": (poison(MODEL, float("nan"), "up_proj"), "are not finite"),
    "with a tensor less": (
        reseat(MODEL, lambda ws: {n: w for n, w in ws.items() if UP not in n}),
        f'"model.{UP}.weight" is not in its files',
    ),
    "of a compiled model": (
        reseat(MODEL, lambda ws: {f"_orig_mod.{n}": w for n, w in ws.items()}),
        'its tensors\' names begin with "_orig_mod."',
    ),
    "as a pickle": (write_as_pickle("pytorch_model.bin"), "pickles are not read"),
    "as a pickle under another name": (write_as_pickle(MODEL), "is not a safetensors file, or is truncated"),
    "with code": (
        chain_edits(configure("config.json", auto_map={"AutoModelForCausalLM": "m.M"}), CODE),
        'config.json: "auto_map" makes a loader run code; remove it',
    ),
    "with code of a new kind": (
        chain_edits(configure("config.json", auto_map={"AutoConfig": "m.M"}, model_type="new"), CODE),
        'config.json: "auto_map" makes a loader run code; remove it',
    ),
    "with a kernel to fetch": (
        configure("config.json", _attn_implementation_internal="a/b"),
        "makes a loader run code",
    ),
    "with an index that leads out": (add_shard_index("../tiny/model.safetensors"), "is not a file in the same folder"),
    "with an absolute index": (add_shard_index("/etc/passwd"), "is not a file in the same folder"),
    "with an index of what is not there": (add_shard_index("other.safetensors"), "is not a file in the same folder"),
    "with a size in words": (configure("config.json", hidden_size="x"), "Field 'hidden_size' expected int"),
    "with weights that are gone": (leave_broken_link(MODEL), 'model.safetensors": cannot be read: No such file'),
    "with a configuration that is gone": (leave_broken_link("quantize_config.json"), "cannot be read: No such file"),
    "of an absurd width": (configure("config.json", hidden_size=10**9), "hidden_size = 1000000000, but its files hold"),
    "of no words": (configure("config.json", vocab_size=0), "vocab_size = 0, but its files hold"),
    "of endless layers": (configure("config.json", num_hidden_layers=10**7), "num_hidden_layers = 10000000, but its"),
    "of absurd heads": (configure("config.json", head_dim=10**7), "its config.json implies 15,"),
    "of no heads": (configure("config.json", num_attention_heads=0), "its config.json is invalid"),
    "with a context that is none": (configure("config.json", max_position_embeddings=-1), "a context of -1 tokens"),
    "with NaN in its configuration": (configure("config.json", rms_norm_eps=float("nan")), "is not JSON: it holds NaN"),
    "with infinity in its settings": (
        configure("generation_config.json", temperature=float("inf")),
        "generation_config.json: is not JSON: it holds Infinity",
    ),
    "with settings that are refused": (
        configure("generation_config.json", max_new_tokens=-1),
        "its generation_config.json is invalid: `max_new_tokens` must be greater than 0",
    ),
    "with a template that loops": (
        set_chat_template("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        "its chat template takes over 5.0 s to render a few words",
    ),
    "with a template that explodes": (
        set_chat_template("{{ 'x' * 10**11 }}"),
        "its chat template cannot be rendered: it needs too much memory",
    ),
    "with a template that babbles": (
        set_chat_template("{{ 'x' * 10**7 }}"),
        "renders 10,000,000 characters from a few words",
    ),
    "with a template that counts": (
        set_chat_template("{{ 9 ** (9 ** 9) }}"),
        "cannot be checked: the subprocess failed: it took too long",
    ),
    "with half a template": (set_chat_template("{% if"), "its chat template cannot be rendered"),
    "with a template that refuses": (set_chat_template("{{ raise_exception('no') }}"), "cannot be rendered: no"),
    "cut short": (cut(MODEL), "is truncated"),
    "with overlapping tensors": (overlap(MODEL), "overlaps another"),
    "of a list": (put("config.json", "[]"), "config.json: is not a JSON object"),
    "with two templates": (TEMPLATES, "chat template"),
}
CASES = [*(("adapter", case) for case in ADAPTERS), *(("merged", case) for case in MERGED)]
USES = {"adapter": "adapter", "merged": "safetensors"}


def run(ready: Project, candidate: str, to: str = "out") -> CommandOutcome:
    """Gate a candidate, and export it if it passes; the folder of the export is taken by an earlier one."""
    table = f'[[export]]\nuse = "{USES[candidate]}"\nfrom = "{candidate}"\nto = "{to}"\n'
    ready.write({"suite.toml": REAL.partition("[[export]]")[0] + table, "out/evidence/manifest.json": "{}"})
    return ready.run("--candidate", str(ready.folder / candidate))


@pytest.mark.parametrize(("kind", "case"), CASES)
def test_candidates_that_are_broken_or_mean_ill(kind: str, case: str, ready: Project) -> None:
    """Exit 4 and what is wrong, no code run, no traceback; the export that is there stays."""
    edit, told = (ADAPTERS if kind == "adapter" else MERGED)[case]
    edit(ready.folder / kind)
    outcome = run(ready, kind)
    said = outcome.err + outcome.out
    assert (outcome.code, told in said, "Traceback" in said) == (4, True, False), said
    assert said.count("error: ") == 1
    assert list(file_digests(ready.folder / "out")) == ["evidence/manifest.json"]
    assert not list(ready.folder.rglob("ran"))


TARGETS: dict[str, tuple[str, str]] = {
    "holds something else": ("merged", "which contains files but is not an export"),
    "is the model": ("tiny", 'which is the model "tiny"'),
    "is a file": ("suite.toml", "which is the suite"),
    "is below a file": ("suite.toml/out", "which is not writable"),
    "is a link": ("link", "which is not a folder"),
}


@pytest.mark.parametrize("case", TARGETS)
def test_targets_that_cannot_be_written(case: str, ready: Project) -> None:
    """Where no export can go is told before anything is computed, and what lies there is not touched."""
    (ready.folder / "link").symlink_to("out")
    to, told = TARGETS[case]
    before = file_digests(ready.folder / "tiny")
    outcome = run(ready, "adapter", to)
    assert (outcome.code, told in outcome.err, outcome.err.count("\n")) == (4, True, 1), outcome.err
    assert before == file_digests(ready.folder / "tiny")
    assert list(file_digests(ready.folder / "out")) == ["evidence/manifest.json"]


@pytest.mark.parametrize("kind", ["merged", "adapter"])
def test_a_second_set_of_weights_stays_behind(kind: str, ready: Project) -> None:
    """As Mistral's repositories have it: one set is judged, merged and shipped, and a line names the other."""
    folder = ready.folder / ("tiny" if kind == "adapter" else "merged")
    shutil.copyfile(ready.folder / "tiny" / MODEL, folder / "consolidated.safetensors")
    for name in ("params.json", "tekken.json", "hf_quant_config.json"):
        (folder / name).write_text("{}", "utf-8")
    (folder / "harness-source.json").write_text('{"bytes": 1000, "parameters": 10}', "utf-8")
    table = '[[export]]\nuse = "safetensors"\nto = "out"\n'
    ready.write({"suite.toml": REAL.partition("[[export]]")[0] + table})
    outcome = ready.run("--candidate", str(ready.folder / kind))
    assert outcome.code == 0, outcome.out
    told = " ".join(outcome.out.split())
    assert "the model's folder holds consolidated.safetensors, hf_quant_config.json, params.json, tekken.json" in told
    assert "parameters 107,456" in told  # counted once, whatever a note says
    there = {p.name for p in (ready.folder / "out/model").iterdir()}
    assert MODEL in there and not there & {"consolidated.safetensors", "params.json", "tekken.json"}
    assert ready.harness("verify", "out").code == 0
    shutil.copyfile(ready.folder / "tiny" / MODEL, ready.folder / "out/model/consolidated.safetensors")
    assert ready.harness("verify", "out").code == 7


STRAYS = {
    "a bias that was trained": "model.layers.0.self_attn.q_proj.bias",
    "an adapter that was not merged": "model.layers.0.self_attn.q_proj.lora_A.weight",
    "another layer": "model.layers.99.mlp.up_proj.weight",
}


@pytest.mark.parametrize("case", STRAYS)
def test_tensors_that_the_model_does_not_use_are_refused(case: str, made: Path, tmp_path: Path) -> None:
    """It is judged without them, and another reader may have them; buffers of old files are no matter."""
    import torch

    from harness.errors import UsageError
    from harness_hf import load_model

    shutil.copytree(made / "merged", tmp_path / "m")
    reseat(MODEL, lambda weights: {**weights, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)})(
        tmp_path / "m"
    )
    load_model(tmp_path / "m")
    reseat(MODEL, lambda weights: {**weights, STRAYS[case]: torch.zeros(8)})(tmp_path / "m")
    with pytest.raises(UsageError, match="is in its files, but the model does not use it"):
        load_model(tmp_path / "m")


def test_what_ships_answers_as_what_was_judged(made: Path, tmp_path: Path) -> None:
    """All that a loader does not read deleted, a model gives the same bits: the loader reads what ships."""
    import torch

    from harness.artifacts.formats import shipping_files
    from harness_hf import load_model, load_tokenizer

    full, bare = tmp_path / "full", tmp_path / "bare"
    shutil.copytree(made / "merged", full)
    shutil.copyfile(made / "tiny" / MODEL, full / "consolidated.safetensors")
    shutil.copyfile(made / "tiny" / MODEL, full / "zzz.safetensors")
    for name in ("params.json", "tekken.json", "tokenizer.model", "chat_template.json", "vocab.txt"):
        (full / name).write_text("{}", "utf-8")
    bare.mkdir()
    for name in shipping_files(full):
        shutil.copyfile(full / name, bare / name)
    assert "zzz.safetensors" not in shipping_files(full)
    said = []
    for folder in (full, bare):
        ids = load_tokenizer(folder)("The sky is blue", return_tensors="pt")
        with torch.no_grad():
            said.append(load_model(folder)(**ids).logits)
    assert torch.equal(*said)


def test_what_is_left_of_a_training_is_not_exported(ready: Project) -> None:
    """Pickles and code that lie beside the weights are neither read nor shipped, and the export is verified."""
    for name in ("training_args.bin", "optimizer.pt", "modeling.py", "events.out.1"):
        (ready.folder / "merged" / name).write_bytes(b"\x80\x04.")
    for name in ("tiny", "merged"):
        ready.write({f"{name}/additional_chat_templates/tools.jinja": "{{ messages }}"})
    outcome = run(ready, "merged")
    assert outcome.code == 0, outcome.out
    assert (ready.folder / "out/model/additional_chat_templates/tools.jinja").is_file()
    assert {p.suffix for p in (ready.folder / "out/model").rglob("*") if p.is_file()} <= SUFFIXES
    assert ready.harness("verify", "out").code == 0
