"""Real servers beside the model that they serve: healthy ones raise no alarm, and planted faults are seen."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from harness.cli.parser import parse_arguments
from harness_served.commands import measure_parity, parse_layers
from harness_served.parity import DIFFERS, SAME, UNKNOWN
from tests.helpers import llamas
from tests.helpers.late import import_late
from tests.helpers.runtimes import teach
from tests.helpers.servers import make_llama_cpp_command, make_transformers_command, start_server

pytestmark = pytest.mark.slow
import_late("openai")


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that ends long answers, as an export has it."""
    folder = tmp_path_factory.mktemp("real")
    build(folder / "model")
    return folder


def build(folder: Path, steps: int = 80) -> Path:
    """Write a Llama that was taught to end long answers."""
    model = llamas.build(folder, seed=1, max_position_embeddings=2048, num_attention_heads=2, num_key_value_heads=1)
    return teach(model, steps, " That is all there is to say.")


def look(export: Path, url: str, layers: str) -> tuple[int, dict[str, Any]]:
    given = ["parity", str(export), "--runtime", url, "--layers", layers, "--arithmetic", "float32", "--seed", "1"]
    args = parse_arguments(given)
    compared = measure_parity(args, parse_layers(layers))
    return compared.exit_code, {name: layer["verdict"] for name, layer in compared.value["layers"].items()}


def test_transformers_serve_is_the_same_as_far_as_it_lets_be_seen(export: Path) -> None:
    """By count and text: it tells no log-probabilities, and never draws."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    with start_server(make_transformers_command(export / "model"), export / "log") as url:
        code, found = look(export, url, "ids,stops,defaults,answers,logprobs")
    assert code == 6
    seen = dict.fromkeys(("ids", "stops", "defaults", "answers"), SAME)
    assert found == {**seen, "logprobs": UNKNOWN, "identity": UNKNOWN}


def test_transformers_serve_with_another_template_and_model_is_seen(export: Path, tmp_path: Path) -> None:
    """Its template lost a newline, and its weights are of a model that was taught less."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    served = build(tmp_path / "served", steps=40)
    with start_server(make_transformers_command(served), tmp_path / "log") as url:
        code, found = look(export, url, "ids,answers")
    assert (code, found["ids"], found["answers"]) == (1, SAME, DIFFERS)
    template = served / "chat_template.jinja"
    template.write_text(template.read_text("utf-8").replace("<|assistant|>\n", "<|assistant|>"), "utf-8")
    with start_server(make_transformers_command(served), tmp_path / "log") as url:
        code, found = look(export, url, "ids")
    assert (code, found["ids"]) == (1, DIFFERS)


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="llama.cpp's server is not installed: pip install xllamacpp")
def test_llama_cpp_is_the_same_and_a_short_context_is_seen(tmp_path: Path) -> None:
    """Of a model it can hold all layers are the same but its own defaults; with a short context `ids` differ."""
    from harness_export.writing import write_gguf as write

    folder = build(tmp_path / "whole" / "model")
    (tmp_path / "gguf" / "model").mkdir(parents=True)
    write(folder, tmp_path / "gguf" / "model", "F32")
    file = tmp_path / "gguf" / "model" / "model.gguf"
    with start_server(make_llama_cpp_command(file), tmp_path / "log") as url:
        code, found = look(tmp_path / "gguf", url, "ids,logprobs,answers")
        assert (code, set(found.values())) == (0, {SAME})
        code, found = look(tmp_path / "gguf", url, "defaults")
        assert (code, found["defaults"]) == (1, DIFFERS)
    with start_server(make_llama_cpp_command(file, n_ctx=256), tmp_path / "log") as url:
        assert look(tmp_path / "gguf", url, "ids")[1]["ids"] == DIFFERS
