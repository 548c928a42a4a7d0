"""What answers is what was exported, or the layer that says it is not; each dialect by a server that speaks it."""

from __future__ import annotations

import json
import math
import re
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.answers import requests
from harness.answers.requests import RequestError
from harness.artifacts.attestation import GATES, LOCK, MANIFEST
from harness.artifacts.stamps import read_stamps
from harness.cli.parser import parse_arguments
from harness.errors import ExitCode, UsageError
from harness.records.models import Source
from harness.release.evidence import open_named_base
from harness.release.verify import VerifiedExport
from harness_hf import ModelTokenizer
from harness_hf.tiny import build_tiny_model
from harness_served.commands import measure_parity, parse_layers
from harness_served.dialects import read_completion
from harness_served.layers import answers, stops
from harness_served.parity import (
    DIFFERS,
    SAME,
    UNKNOWN,
    UNPROVEN,
    GreedyAnswer,
    LayerVerdict,
    Parity,
    RenderedConversation,
    parity_exit_code,
)
from harness_served.reference import Reference
from harness_served.runtime import RuntimeAnswer, read_answer
from tests.helpers import llamas
from tests.helpers.adapters import make_adapter
from tests.helpers.late import import_late
from tests.helpers.runtimes import Runtime, run_runtime, write_taught_llama

import_late("openai")
KEY = "k3y-of-ours-0123456789"
DIALECTS = ("llama.cpp", "vllm", "ollama", "transformers")
ALL_SEEN = {
    **dict.fromkeys(("ids", "stops", "defaults", "sampling", "logprobs"), SAME),
    **{"lora": UNKNOWN, "answers": SAME},
}
BY_TEXT = {**ALL_SEEN, "defaults": UNPROVEN}  # a draw of its own is never proven unfiltered by text
HEALTHY = {  # what each dialect lets be seen of a healthy runtime
    "llama.cpp": ALL_SEEN,
    "vllm": BY_TEXT,
    "ollama": BY_TEXT,
    "transformers": {**ALL_SEEN, "sampling": UNKNOWN, "logprobs": UNKNOWN},
}


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that ends its answers, as an export has it."""
    folder = tmp_path_factory.mktemp("served")
    write_taught_llama(folder / "model")
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait little between tries."""
    monkeypatch.setattr(requests, "FIRST_PAUSE_SECONDS", 0.01)


def look(
    export: Path, dialect: str, *faults: str, layers: str = "", served: Path | None = None, more: Any = (), **how: Any
) -> Any:
    """Compare, and return the exit code and what is told."""
    with run_runtime(Runtime(dialect, served or export / "model", frozenset(faults), **how)) as runtime:
        given = ["parity", str(export), "--runtime", runtime.url, "--layers", layers, "--arithmetic", "float32"]
        args = parse_arguments([*given, "--seed", "0", *more])
        compared = measure_parity(args, parse_layers(layers))
        return compared.exit_code, compared.value


def list_layer_verdicts(document: dict[str, Any]) -> dict[str, str]:
    return {name: layer["verdict"] for name, layer in document["layers"].items() if name != "identity"}


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_healthy_runtime_raises_no_alarm(export: Path, dialect: str) -> None:
    """Each layer that the dialect lets be seen is the same, within the tokens that were told before."""
    code, told = look(export, dialect)
    assert list_layer_verdicts(told) == HEALTHY[dialect]
    assert code == (6 if dialect == "transformers" else 0)
    assert told["tokens"] <= 1000
    assert told["layers"]["identity"]["verdict"] == (UNKNOWN if dialect == "transformers" else SAME)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [114])
def test_a_special_token_that_a_text_hides_is_no_alarm(tmp_path: Path, seed: int) -> None:
    """These models say `<pad>` and `<s>` in the middle, which a server leaves out of its text: the rest has moved."""
    build_tiny_model(tmp_path / "model", seed=seed, stops=True)
    code, told = look(tmp_path, "transformers", layers="answers")
    assert (code, list_layer_verdicts(told)) == (0, {"answers": SAME})


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["llama.cpp", "ollama"])
@pytest.mark.parametrize("seed", [0, 15])
def test_parts_of_characters_are_no_alarm(tmp_path: Path, dialect: str, seed: int) -> None:
    """llama.cpp's chat tells no token that is part of a character, and a text shows none: the rest has moved."""
    build_tiny_model(tmp_path / "model", seed=seed, stops=True)
    code, told = look(tmp_path, dialect, layers="logprobs,answers")
    assert (code, told["layers"]["answers"]["verdict"]) == (6, SAME)


@pytest.mark.slow
def test_an_end_behind_a_broken_character_is_not_judged(tmp_path: Path) -> None:
    """This model says four tokens, half a character, sixteen more and its end: of the four alone nothing ends."""
    build = {"max_position_embeddings": 2048, "num_attention_heads": 2, "num_key_value_heads": 1}
    llamas.build(tmp_path / "model", seed=118, **build)  # type: ignore[arg-type]
    code, told = look(tmp_path, "transformers", layers="stops")
    assert (code, list_layer_verdicts(told)) == (6, {"stops": UNPROVEN})


@pytest.fixture(scope="module")
def cut_otherwise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that says "a" and "mp" and the like, which its tokenizer makes "am" and "p" of."""
    folder = tmp_path_factory.mktemp("cut")
    llamas.build(folder / "model", max_position_embeddings=2048)
    tokenizer = ModelTokenizer.of(str(folder / "model")).tokenizer
    words = ["a", "mp", "d", "ed", "ra", "it", "on", "h", "er", "L", "le", *"bcfgijk"]
    said = tokenizer.convert_tokens_to_ids(words)
    assert len(tokenizer.encode(tokenizer.decode(said), add_special_tokens=False)) == len(said)
    assert tokenizer.encode(tokenizer.decode(said), add_special_tokens=False) != said
    llamas.make_speaker(folder / "model", said)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_text_that_is_cut_in_two_ways_is_no_alarm(cut_otherwise: Path, dialect: str) -> None:
    """Its text has as many tokens as were said, and others: where no tokens are reported, none can be compared."""
    _, told = look(cut_otherwise, dialect, layers="ids,logprobs,answers", context=2048)
    logprobs, answers = (SAME, SAME) if dialect in ("llama.cpp", "vllm") else (UNKNOWN, UNPROVEN)
    assert list_layer_verdicts(told) == {"ids": SAME, "logprobs": logprobs, "answers": answers}


@pytest.mark.slow
def test_a_greedy_runtime_whose_text_is_cut_otherwise_is_greedy(cut_otherwise: Path) -> None:
    """It chose the export's own tokens, though its text comes to others."""
    code, told = look(cut_otherwise, "transformers", layers="defaults")
    assert (code, list_layer_verdicts(told)) == (0, {"defaults": SAME})


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_template_that_lost_a_newline_is_told_by_its_token_or_count(export: Path, dialect: str) -> None:
    """Where tokens are told the first that differs is named, else by how many the count is off."""
    code, told = look(export, dialect, "template", layers="ids,answers")
    says = told["layers"]["ids"]["reason"]
    assert (code, told["layers"]["ids"]["verdict"]) == (1, DIFFERS)
    assert says.startswith("conversation 0, token " if dialect in ("llama.cpp", "vllm") else "conversation 0: ")
    assert "'' instead of the export's '\\n'" in says or "(-1)" in says
    assert told["layers"]["answers"]["verdict"] == UNPROVEN


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["llama.cpp", "ollama", "transformers"])
def test_a_bos_that_is_doubled_in_texts_is_told(export: Path, dialect: str) -> None:
    """The chats are right, and a text prompt has one token too many."""
    code, told = look(export, dialect, "bos", layers="ids")
    assert code == 1
    assert "a text prompt has 26 tokens, but 25 by the export (+1)" in told["layers"]["ids"]["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_runtime_that_does_not_stop_is_told(export: Path, dialect: str) -> None:
    """Whole answers are put into its mouth, and it goes on."""
    code, told = look(export, dialect, "stops", layers="stops")
    assert (code, told["layers"]["stops"]["verdict"]) == (1, DIFFERS)
    assert "turns go on" in told["layers"]["stops"]["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["llama.cpp", "vllm", "ollama"])
def test_other_weights_are_told_by_log_probabilities(export: Path, tmp_path: Path, dialect: str) -> None:
    """The same template, tokenizer and stop tokens, and a model that was taught a little less."""
    other = write_taught_llama(tmp_path / "other", steps=160)
    code, told = look(export, dialect, served=other, layers="ids,logprobs")
    assert (code, list_layer_verdicts(told)) == (1, {"ids": SAME, "logprobs": DIFFERS})


@pytest.mark.slow
def test_log_probabilities_that_are_wrong_by_turns_are_told(export: Path) -> None:
    """Their mean is right, and the bound is on each."""
    code, told = look(export, "vllm", "moved", layers="logprobs")
    assert (code, list_layer_verdicts(told)) == (1, {"logprobs": DIFFERS})


@pytest.mark.slow
def test_what_a_short_context_refuses_ends_no_comparison(export: Path) -> None:
    """The layer that needs it is not proven, and the others are looked at."""
    code, told = look(export, "llama.cpp", "short")
    assert (code, told["layers"]["ids"]["verdict"]) == (1, DIFFERS)
    assert told["layers"]["logprobs"]["reason"].startswith("it rejected a request: ")
    assert "exceeds the available context" in told["layers"]["logprobs"]["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["llama.cpp", "vllm"])
def test_what_is_not_told_is_not_the_same(export: Path, dialect: str) -> None:
    """A server that ignores the question for log-probabilities with 200 is inconclusive, and is told what to do."""
    code, told = look(export, dialect, "mute", layers="logprobs")
    assert (code, list_layer_verdicts(told)) == (6, {"logprobs": UNKNOWN})


@pytest.mark.slow
def test_a_server_that_hides_usage_tells_no_count(export: Path) -> None:
    """Without tokens and counts nothing is known of the prompt."""
    code, told = look(export, "transformers", "usage", layers="ids")
    assert (code, list_layer_verdicts(told)) == (6, {"ids": UNKNOWN})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("nan", "sent a number that is not a log-probability"),
        ("streams", "streams its answers, although streaming was not requested"),
    ],
)
def test_a_broken_server_is_one_line(export: Path, fault: str, says: str) -> None:
    """Nothing is said of a model where the server gives no answers, or another model's."""
    dialect = "transformers" if fault == "streams" else "llama.cpp"
    code, document = look(export, dialect, fault, layers="ids,logprobs")
    assert code == 4
    (error,) = document["errors"]
    assert says in error and "\n" not in error


@pytest.mark.slow
def test_two_models_of_one_name_are_refused(export: Path) -> None:
    """Nothing is said of either."""
    with pytest.raises(UsageError, match='serves 2 models with the name "small"; give them different names'):
        look(export, "llama.cpp", "twice", layers="ids,logprobs")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("error", "CUDA error"),
        ("gone", "HTTP 503: Loading model, after 3 tries; check its log, and try again"),
        ("limited", "HTTP 429: Rate limit reached, after 3 tries; try again later"),
    ],
)
def test_a_server_that_gives_up_is_to_be_asked_again(export: Path, fault: str, says: str) -> None:
    """Exit 8 is neither a difference nor a mistake, and what was found until then is in the document."""
    code, told = look(export, "llama.cpp", fault, layers="ids,logprobs")
    assert (code, code == ExitCode.UNAVAILABLE) == (8, True)
    assert says in told["errors"][0]
    assert "layers" in told


@pytest.mark.slow
def test_what_differed_before_a_server_died_is_kept(export: Path) -> None:
    """A finding is one, whatever comes after it."""
    code, told = look(export, "llama.cpp", "template", "gone", layers="ids,logprobs")
    assert (code, list_layer_verdicts(told)) == (1, {"ids": DIFFERS})
    assert "errors" not in told or told["errors"]


@pytest.mark.slow
def test_a_model_that_changes_is_a_finding(export: Path) -> None:
    """Two models behind one address are no error of the harness: exit 1, with all that was found."""
    code, told = look(export, "llama.cpp", "swapped", layers="ids,logprobs")
    assert (code, list_layer_verdicts(told)) == (1, {"ids": SAME, "logprobs": SAME})
    says = told["layers"]["identity"]["reason"]
    assert says.startswith("two models answer behind this address, or it changed: model_path is 'model.gguf' and")


def test_no_server_is_one_line(tmp_path: Path) -> None:
    """Where nothing listens it is said what to do."""
    args = parse_arguments(["parity", str(tmp_path), "--runtime", "http://127.0.0.1:9/v1"])
    with pytest.raises(UsageError, match=r"the connection failed.*start it, or correct") as caught:
        measure_parity(args, ())
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_server_that_is_busy_by_turns_is_asked_again(export: Path) -> None:
    """A limit of requests is waited for, and takes no server for one of which less is known."""
    code, told = look(export, "llama.cpp", "busy", layers="ids,logprobs")
    assert (code, list_layer_verdicts(told)) == (0, {"ids": SAME, "logprobs": SAME})


@pytest.mark.slow
def test_replicas_that_differ_are_no_noise(export: Path) -> None:
    """What one model answers to the same question twice is near; another model behind the address widens no bound."""
    code, told = look(export, "vllm", "replicas", layers="logprobs")
    assert (code, list_layer_verdicts(told)) == (1, {"logprobs": DIFFERS})
    assert "replicas differ, or the model changed" in told["layers"]["logprobs"]["reason"]


@pytest.mark.slow
def test_an_export_that_cannot_be_read_here_is_one_line(export: Path, tmp_path: Path) -> None:
    """A form of weights that the reference has no reader for is told before anything is asked."""
    shutil.copytree(export / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text("utf-8"))
    config["quantization_config"] = {"quant_method": "of another house"}
    (tmp_path / "model/config.json").write_text(json.dumps(config), "utf-8")
    (tmp_path / "cut/model").mkdir(parents=True)
    (tmp_path / "cut/model/model.gguf").write_bytes(b"GGUF" + bytes(40))
    for folder, says in ((tmp_path, "of another house"), (tmp_path / "cut", "is not a valid GGUF file")):
        with pytest.raises(UsageError, match=says) as caught:
            look(folder, "vllm", served=export / "model")
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_two_models_are_not_chosen_from(export: Path) -> None:
    """A name that is not served is told with those that are."""
    with run_runtime(Runtime("vllm", export / "model")) as runtime:
        args = parse_arguments(["parity", str(export), "--runtime", runtime.url, "--model", "smal"])
        with pytest.raises(UsageError, match='does not serve a model "smal"; did you mean "small"'):
            measure_parity(args, ())


@pytest.fixture(scope="module")
def adapted(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of an adapter of some weight, on the model of the other export."""
    from harness_hf import quiet_loading
    from harness_lora import lora

    folder = tmp_path_factory.mktemp("adapted")
    with quiet_loading():
        make_adapter(export / "model", lora(), folder / "model", 0.02)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "verdict"), [(1.0, SAME), (0.9, DIFFERS), (0.5, DIFFERS), (0.0, DIFFERS)])
def test_an_adapters_scale_is_seen(export: Path, adapted: Path, scale: float, verdict: str) -> None:
    """Whole is the same; a little less, half or nothing is not, and its scale is measured.

    Greedy answers may be the same at nine tenths: whether a token's lead is that small is a matter of rounding.
    """
    runtime = Runtime("llama.cpp", export / "model", adapter=adapted / "model", scale=scale)
    with ExitStack() as stack:
        url = stack.enter_context(run_runtime(runtime)).url
        given = ["parity", str(adapted), "--runtime", url, "--base", str(export / "model"), "--arithmetic", "float32"]
        args = parse_arguments([*given, "--seed", "0"])
        compared = measure_parity(args, ("logprobs", "lora", "answers"))
    code, found = compared.exit_code, compared.value["layers"]
    assert found["answers"]["verdict"] in {1.0: {SAME}, 0.9: {SAME, DIFFERS}}.get(scale, {DIFFERS})
    assert (code, found["lora"]["verdict"]) == (0 if verdict == SAME else 1, verdict)
    assert math.isclose(1 - 0.1 * found["lora"]["numbers"]["slope"], scale, abs_tol=0.05) or scale < 0.9
    assert found["logprobs"]["verdict"] == (DIFFERS if scale != 1 else SAME)
    nearest = {0.5: "the adapter at half", 0.0: "the base without its adapter"}
    assert nearest.get(scale, "") in found["logprobs"]["reason"]


@pytest.mark.slow
def test_a_statement_is_about_the_export_and_hides_the_host(export: Path, tmp_path: Path) -> None:
    """It has the seed that was drawn, and no address."""
    path = tmp_path / "qa.served.jsonl"
    with run_runtime(Runtime("vllm", export / "model")) as runtime:
        args = parse_arguments(
            ["parity", str(export), "--runtime", runtime.url, "--layers", "ids", "--write", str(path)]
        )
        compared = measure_parity(args, ("ids",), make_verified_export(export))
    assert compared.exit_code == 0
    told = json.loads(path.read_text("utf-8"))
    assert told["subject"] == [{"name": export.name, "digest": {"sha256": "ab" * 32}}]
    assert told["predicate"]["layers"]["ids"]["verdict"] == SAME
    assert told["predicate"]["seed"] == compared.value["seed"] > 0
    assert runtime.url.split("/")[2] not in path.read_text("utf-8")


def make_verified_export(export: Path) -> VerifiedExport:
    """Return a folder as `verify` would have found it."""
    found = VerifiedExport(str(export), ok=True, root="ab" * 32)
    found.stamps = read_stamps(export)
    return found


@dataclass
class Echoing(Runtime):
    """A server whose version says the key that it was sent, and moves the terminal."""

    def _vllm(self, path: str, body: dict[str, Any]) -> Any:
        told = {"version": f"0.32 {KEY}\x1b]0;pwned\x07 hf_{'a' * 34}"}
        return (200, told) if path == "/version" else super()._vllm(path, body)


@pytest.mark.slow
def test_a_servers_words_are_cleaned_before_they_are_signed(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that it echoes and an escape sequence stand in no statement, and it is still recognised."""
    monkeypatch.setenv("SERVED_KEY", KEY)
    path, key = tmp_path / "qa.served.jsonl", ["--api-key-env", "SERVED_KEY"]
    with run_runtime(Echoing("vllm", export / "model")) as runtime:
        given = ["parity", str(export), "--runtime", runtime.url, "--layers", "ids", "--write", str(path), *key]
        args = parse_arguments(given)
        compared = measure_parity(args, ("ids",), make_verified_export(export))
    assert compared.exit_code == 0
    text = path.read_text("utf-8") + json.dumps(compared.value)
    assert json.loads(path.read_text("utf-8"))["predicate"]["runtime"]["version"].startswith("0.32 ***")
    assert not [secret for secret in (KEY, KEY[4:14], "\\u001b", "hf_aaaa") if secret in text]


def test_a_base_that_only_the_export_names_is_not_fetched(tmp_path: Path) -> None:
    """An adapter of a stranger says what it stands on; nothing is opened for that before the user names it."""

    def opened(path: str) -> Source:
        raise AssertionError(f"{path} was opened")

    found = VerifiedExport(str(tmp_path))
    found.raw[GATES] = b"[]"
    found.raw[LOCK] = json.dumps({"suite": {"model": {"path": "evil/base"}}}).encode()
    found.raw[MANIFEST] = json.dumps({"adapter": {"base": "ab" * 32, "quantization": None}, "files": {}}).encode()
    with pytest.raises(
        UsageError,
        match=(
            'is an adapter that was gated on "evil/base", weights abababababababab; name your copy '
            "of that base with --base MODEL"
        ),
    ):
        open_named_base(found, "", opened)
    with pytest.raises(AssertionError, match="mine was opened"):
        open_named_base(found, "mine", opened)
    found.raw[MANIFEST] = json.dumps({"files": {"model/adapter_config.json": {}}}).encode()
    with pytest.raises(UsageError, match=": is an adapter, but its evidence does not name its base; export again"):
        open_named_base(found, "", opened)


@pytest.mark.slow
def test_filters_by_default_are_told(export: Path) -> None:
    """llama.cpp tells with each reply how it drew."""
    code, told = look(export, "llama.cpp", "sampling", layers="defaults")
    assert (code, told["layers"]["defaults"]["verdict"]) == (1, DIFFERS)
    assert "top_k 40 instead of the export's none" in told["layers"]["defaults"]["reason"]


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "verdict"), [("unlucky", UNPROVEN), ("cold", DIFFERS)])
def test_an_alarm_by_chance_is_drawn_once_more(export: Path, fault: str, verdict: str) -> None:
    """A first draw that is unlucky is no alarm; a runtime that is cold by default is so in both."""
    _, told = look(export, "vllm", fault, layers="defaults")
    assert list_layer_verdicts(told) == {"defaults": verdict}
    assert told["notes"][0].startswith(
        "defaults: sampled once more, since the first sample filters, or samples at a lower temperature"
    )


@pytest.mark.slow
def test_a_second_draw_is_weighed_with_the_first(export: Path) -> None:
    """What alarmed is not thrown away, so that a second draw may be short."""
    _, told = look(export, "vllm", "cold", layers="defaults")
    first = int(re.findall(r"at (\d+) tokens", told["notes"][0])[0])
    assert told["layers"]["defaults"]["numbers"]["tokens"] > 1.5 * first


@pytest.mark.slow
def test_an_adapters_direction_that_alarms_by_chance_is_drawn_once_more(export: Path, adapted: Path) -> None:
    """A first draw that seems to be of a smaller scale, and a second that does not."""
    base = export / "model"
    with run_runtime(Runtime("llama.cpp", base, frozenset({"unlucky"}), adapter=adapted / "model")) as runtime:
        given = ["parity", str(adapted), "--runtime", runtime.url, "--base", str(base), "--arithmetic", "float32"]
        args = parse_arguments([*given, "--seed", "0"])
        compared = measure_parity(args, ("logprobs", "lora"))
    assert compared.exit_code == 0
    assert compared.value["notes"][0].startswith("lora: sampled once more, since the first sample gave")


def test_exit_codes_are_those_of_the_verdicts() -> None:
    """One that differs fails, whoever asked; what was asked for and is not proven is inconclusive."""
    same, differs, unseen = LayerVerdict(SAME, ""), LayerVerdict(DIFFERS, ""), LayerVerdict(UNKNOWN, "")
    assert parity_exit_code({"ids": same, "lora": unseen}, ["ids"]) == 0
    assert parity_exit_code({"ids": same, "lora": unseen}, ["ids", "lora"]) == 6
    assert parity_exit_code({"ids": same}, ["ids", "stops"]) == 6
    assert parity_exit_code({"ids": unseen, "answers": differs}, ["ids"]) == 1


def test_an_unknown_layer_is_told() -> None:
    """A misspelt layer would else be looked at by nobody."""
    with pytest.raises(UsageError, match='": is not a layer; did you mean "logprobs"'):
        parse_layers("ids,logprob")


def test_a_token_without_an_entry_ends_what_is_compared() -> None:
    """llama.cpp tells no log-probability of a part of a character, so what follows has no right neighbour."""
    entries = [{"id": 5, "logprob": -1.0}, {"id": 7, "logprob": -2.0}]
    reply = {"content": "a?b", "tokens": [5, 6, 7], "stop_type": "limit", "completion_probabilities": entries}
    said = read_completion(reply)
    assert (said.ids, said.logprobs) == ([5], [-1.0])


@pytest.mark.parametrize("value", [None, math.nan, 0.5, "x", -math.inf])
def test_what_is_no_log_probability_is_refused(value: Any) -> None:
    """A number above 0, or none, is no answer to be compared."""
    reply = {"choices": [{"text": "a", "logprobs": {"token_logprobs": [value]}}]}
    with pytest.raises(RequestError, match="not a log-probability"):
        read_answer(reply)


def test_a_text_that_is_read_otherwise_ends_nothing() -> None:
    """Who takes no ids reads a prompt and its answer anew, with a BOS of its own, say: the end is judged there."""
    import torch

    class Tokenizer:
        decode = convert_ids_to_tokens = staticmethod(str)

        def __call__(self, texts: list[str]) -> dict[str, list[list[int]]]:
            return {"input_ids": [[1, 1, 5, 6] for _ in texts]}

    tokens = SimpleNamespace(
        tokenizer=Tokenizer(),
        encode_pairs=lambda given: [([1, 5], [6]) for _ in given],
        encode_prompts=lambda given: [[1, 5, 6] if isinstance(one, str) else [1, 5] for one in given],
    )

    def score(prompt: list[int], said: list[int]) -> Any:
        return SimpleNamespace(ends=torch.tensor([9.0 if [*prompt, *said] == [1, 5, 6] else -9.0]))

    reference = SimpleNamespace(stop_ids={2}, tokens=tokens, score=score)
    runtime = SimpleNamespace(takes_ids=True, complete=lambda *_: RuntimeAnswer("goes on", ended="length"))
    parity: Any = SimpleNamespace(
        reference=reference, runtime=runtime, seed=0, prompts=[], answers=[], answers_scored=[]
    )
    assert stops.compare_stops(parity).verdict == DIFFERS
    runtime.takes_ids = False
    assert stops.compare_stops(parity).verdict == UNPROVEN


def test_a_part_of_a_character_is_one_outcome(tmp_path: Path) -> None:
    """What is behind one that llama.cpp's chat left out is not compared, and the part itself counts as sampled."""
    folder = llamas.build(tmp_path / "model")
    reference = Reference(folder)
    tokenizer, prompt = reference.tokens.tokenizer, RenderedConversation([], "H", [0, 7])
    [h, part, k] = tokenizer.convert_tokens_to_ids(["H", "\N{LATIN CAPITAL LETTER A WITH TILDE}", "k"])
    parity = Parity(SimpleNamespace(), reference, "float32")  # type: ignore[arg-type]
    said = RuntimeAnswer("H\ufffdkk", [h, k, k], [-1.0] * 3, "length", said=4, texts=["H", "\ufffdk", "k"])
    answer = parity.sampled_of(prompt, said)
    assert (answer.ids, answer.part, answer.reported, answer.outcomes) == ([h], True, True, 2)
    assert part in reference.part_ids
    scores = [reference.score(prompt.ids, [token]) for token in range(len(tokenizer))]
    likely = [math.exp(float(one.own[0])) for one in scores]
    surprise = [float(one.surprise[0]) for one in scores]
    assert len({round(surprise[token], 5) for token in reference.part_ids}) == 1
    assert sum(p * s for p, s in zip(likely, surprise, strict=True)) == pytest.approx(0.0, abs=1e-4)
    square = sum(p * s * s for p, s in zip(likely, surprise, strict=True))
    assert square == pytest.approx(float(scores[0].variance[0]), rel=1e-3)
    assert float(reference.score(prompt.ids, []).surprise[0]) == pytest.approx(surprise[part], abs=1e-4)


@pytest.mark.parametrize(("rough", "verdict"), [(0.0, SAME), (1.4, DIFFERS)])
def test_a_token_that_the_runtimes_arithmetic_prefers_is_no_other(rough: float, verdict: str) -> None:
    """In float32 another token leads by 1.4 nats of at most 1.2; in bfloat16, as the runtime computes, by `rough`."""
    import torch

    def scored(lead: float) -> Any:
        best, own = torch.full((201,), -1.0), torch.full((200,), -1.0)
        own[100] -= lead
        return SimpleNamespace(own=own, best=best, first=torch.full((201,), 5), ends=torch.zeros(201))

    reference = SimpleNamespace(
        tokens=SimpleNamespace(tokenizer=SimpleNamespace(decode=lambda ids, **_: str(ids[0]))),
        stop_ids=[],
        score=lambda prompt, ids, arithmetic: scored(rough) if arithmetic == "bf16" else None,
    )
    answer = RuntimeAnswer("5", ids=[5] * 200)
    said = [GreedyAnswer(SimpleNamespace(ids=[1], text=""), answer, answer.ids)]  # type: ignore[arg-type]
    parity = Parity(SimpleNamespace(), reference, "bf16", heard={"noise": 0.1})  # type: ignore[arg-type]
    parity.answers, parity.answers_scored = said, [scored(1.4)]  # type: ignore[assignment]
    assert answers.compare_answers(parity).verdict == verdict
