"""What lies between an engine and its clients: each fault of a gateway is seen, by the layer that looks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.answers import requests
from harness.cli.parser import parse_arguments
from harness_served.commands import measure_parity, parse_layers
from harness_served.layers.answers import find_stream_error
from harness_served.parity import DIFFERS, SAME, UNPROVEN
from harness_served.runtime import RuntimeAnswer
from tests.helpers import llamas
from tests.helpers.gateway import FAULTS, LONG, start_gateway
from tests.helpers.late import import_late
from tests.helpers.runtimes import Runtime, run_runtime, teach

pytestmark = pytest.mark.slow
import_late("openai")
LAYERS = "ids,stops,sampling,logprobs,answers"
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}


SEED = 5
SEEDED = ("--seed", str(SEED))


def build(folder: Path, steps: int, context: int = 1024) -> Path:
    """Write a Llama that was taught to end long answers."""
    llamas.build(folder / "model", seed=1, max_position_embeddings=context, **HEADS)  # type: ignore[arg-type]
    teach(folder / "model", steps, " That is all there is to say.")
    return folder


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, as an export has it."""
    return build(tmp_path_factory.mktemp("export"), 80)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same model a few steps earlier."""
    return build(tmp_path_factory.mktemp("base"), 70)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait little between tries."""
    monkeypatch.setattr(requests, "FIRST_PAUSE_SECONDS", 0.01)


def look(export: Path, url: str, layers: str = LAYERS, *more: str) -> tuple[int, dict[str, Any]]:
    """Compare, and return the exit code and the document."""
    given = ["parity", str(export), "--runtime", url, "--layers", layers, "--arithmetic", "float32", *more]
    args = parse_arguments(given)
    compared = measure_parity(args, parse_layers(layers))
    return compared.exit_code, compared.value


@pytest.fixture(scope="module")
def engine(export: Path) -> Any:
    """A healthy server of the export."""
    with run_runtime(Runtime("llama.cpp", export / "model", context=1024)) as runtime:
        yield runtime


@pytest.mark.parametrize("dialect", ["llama.cpp", "vllm"])
def test_a_gateway_that_changes_nothing_is_no_alarm(export: Path, dialect: str) -> None:
    """No layer differs, and each request has a connection of its own."""
    with run_runtime(Runtime(dialect, export / "model", context=1024)) as own, start_gateway(own.url) as healthy:
        code, told = look(export, healthy.url, LAYERS, *SEEDED)
    assert code != 1, told["layers"]
    assert [told["layers"][name]["verdict"] for name in ("ids", "logprobs", "answers")] == [SAME] * 3
    assert healthy.connections >= told["requests"]


@pytest.mark.parametrize("name", [name for name in FAULTS if FAULTS[name]().layer])
def test_a_fault_of_a_gateway_is_seen(export: Path, engine: Runtime, name: str) -> None:
    """By the layer that looks for it, with exit 1."""
    fault = FAULTS[name]()
    with start_gateway(engine.url, fault=fault) as faulty:
        layers, more = ",".join({"ids", fault.layer} - {"identity"}), ("--concurrency", str(fault.concurrency))
        code, told = look(export, faulty.url, layers, *SEEDED, "--model", "small", *more)
    assert (code, told["layers"][fault.layer]["verdict"]) == (1, DIFFERS), told["layers"]


@pytest.mark.parametrize("name", LONG)
def test_what_a_gateway_does_to_long_prompts_is_seen(tmp_path: Path, name: str) -> None:
    """The longest conversation has more than 3,000 characters where the context holds them."""
    build(tmp_path, 1, 4096)
    runtime = Runtime("llama.cpp", tmp_path / "model", context=4096)
    with run_runtime(runtime) as own, start_gateway(own.url, fault=LONG[name]) as faulty:
        code, told = look(tmp_path, faulty.url, "ids", *SEEDED)
    assert (code, told["layers"]["ids"]["verdict"]) == (1, DIFFERS)


def test_chat_without_logprobs_proves_nothing(export: Path, engine: Runtime) -> None:
    """Answers are wanted, so a gateway that hides what they are made of is inconclusive at best."""
    with start_gateway(engine.url, fault=FAULTS["no-logprobs-no-ids"]()) as faulty:
        code, told = look(export, faulty.url, "", *SEEDED)
    assert code in (0, 6)
    assert told["layers"]["answers"]["verdict"] == (SAME if code == 0 else UNPROVEN)


def test_a_cache_in_front_of_a_swapped_model_is_seen(export: Path, base: Path, engine: Runtime) -> None:
    """The questions of a second run are others, so the cache has no answer to them."""
    runtime = Runtime("llama.cpp", base / "model", context=1024)
    with run_runtime(runtime) as swapped, start_gateway(engine.url, cached=True) as cache:
        assert look(export, cache.url, "ids,answers", *SEEDED)[0] == 0
        cache.upstream = [swapped.url]
        code, told = look(export, cache.url, "ids,answers", "--seed", str(SEED + 1))
    assert (code, told["layers"]["ids"]["verdict"], told["layers"]["answers"]["verdict"]) == (1, SAME, DIFFERS)


def test_one_replica_of_three_is_seen_behind_a_balancer_of_connections(
    export: Path, base: Path, engine: Runtime
) -> None:
    """Each request has a connection of its own, so it may reach another replica."""
    with run_runtime(Runtime("llama.cpp", base / "model", context=1024)) as stale:
        with start_gateway(engine.url, engine.url, stale.url) as balancer:
            code, told = look(export, balancer.url, "logprobs", *SEEDED)
        assert (code, told["layers"]["logprobs"]["verdict"]) == (1, DIFFERS)
        code, told = look(export, engine.url, "logprobs", "--replica", stale.url, *SEEDED)
    assert code == 1
    assert told["layers"]["logprobs"]["reason"].startswith("replica 2: ")
    assert [one["layers"]["logprobs"]["verdict"] for one in told["replicas"]] == [SAME, DIFFERS]
    assert told["missed_replicas"]["3"] < told["missed_replicas"]["10"] < 1


def test_a_shorter_context_than_the_exports_is_seen(export: Path) -> None:
    """Unless the one that is needed was named."""
    with run_runtime(Runtime("vllm", export / "model", context=960)) as short:
        code, told = look(export, short.url, "logprobs", *SEEDED)
        assert (code, told["layers"]["identity"]["verdict"]) == (1, DIFFERS)
        assert "its context is 960 tokens, but the export's is 1024" in told["layers"]["identity"]["reason"]
        assert look(export, short.url, "ids", "--context", "900", *SEEDED)[0] == 0


@pytest.mark.parametrize(
    ("plain", "streamed", "lost"),
    [
        ("The sky is blue.", "The sky is blue.", None),
        ("The sky is blue.", "The sky", " is blue."),
        ("The sky is blue.", "The blue.", "sky is "),
        ("The sky is blue.", "The sea.", None),
        ("The sky is blue.", "The sky is blue.e.", "e."),
        ("The sky is blue.", "A sky is blue. Yes.", None),
        ("The \N{REPLACEMENT CHARACTER}F", "The", None),
    ],
)
def test_what_a_stream_lost_or_added_is_named(plain: str, streamed: str, lost: str | None) -> None:
    """Another answer is not a lost part, and neither is a part of a character, which llama.cpp does not stream."""
    once, events = (RuntimeAnswer(text, ended="length", said=9) for text in (plain, streamed))
    says = f"the stream lost {lost!r}" if len(streamed) < len(plain) else f"the stream has {lost!r} more"
    assert (find_stream_error(once, events) or "").startswith(says if lost else "")
    assert (find_stream_error(once, events) is None) == (lost is None)
