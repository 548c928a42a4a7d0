"""The model card: results as a model-index, the gate table, waivers, the base's licence, how to load and serve.

Front matter as huggingface_hub reads it; every value is written as JSON, which YAML contains.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.artifacts.gguf import ROPE_FACTORS, find_gguf, read_gguf
from harness.records.models import ModelRef
from harness.records.run import Run
from harness.records.verdict_text import format_claim
from harness.records.verdicts import Verdict
from harness.suite.tables import Export, Suite
from harness.texts.escaping import escape_controls, escape_markdown, markdown_code
from harness.texts.secrets import redact_options, redact_text

USE = "## Use\n\n"
VLLM_RANK = 16  # the largest it serves unless told otherwise
SCALED_ROPE_TEXT = (
    f"\nIt has scaled rotary positions (`{ROPE_FACTORS}`), which plain transformers does not read "
    "from a GGUF file: loaded there it computes something else, so use llama.cpp or the "
    "harness."
)
LICENCES = {  # how a licence's text begins -> the Hub's name for it
    "apache license": "apache-2.0",
    "mit license": "mit",
    "bsd 3-clause": "bsd-3-clause",
    "gnu general public license": "gpl-3.0",
    "meta llama 3": "llama3",
    "llama 3.1 community": "llama3.1",
    "gemma terms of use": "gemma",
}


class BaseLicence(NamedTuple):
    """The Hub's name for a base's licence, and its source."""

    name: str
    source: str


def write_card(
    suite: Suite, declared: Export, ref: ModelRef, run: Run, strange: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Write the README.md of an export. `strange` are the plugins that do not come with the harness."""
    verdicts = [v for v in run.verdicts if v.candidate == declared.candidate]
    waivers = [f"- **{escape_markdown(v.gate)}**: {escape_markdown(v.waiver.summary())}" for v in verdicts if v.waiver]
    waivers += [
        f"- **{escape_markdown(check)}** (ignored): {escape_markdown(w.summary())}"
        for check, w in run.passed_over.items()
    ]
    others = ", ".join(markdown_code(_describe_plugin(p)) for p in strange)
    took = run.facts.get(f"export to {declared.to}", {}).get("swap_in_ms")
    licence, told_by = find_base_licence(Path(ref.path), run.facts.get("model", {}))
    front = {
        "license": licence,
        "library_name": "peft" if ref.adapter else "llama.cpp" if find_gguf(Path(ref.path)) else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["finetune-harness"],
        "model-index": [{"name": suite.name, "results": list(_iterate_model_index_results(suite, declared, run))}],
    }
    if re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w.-]+)?", run.model):
        front["base_model"] = run.model.partition("@")[0]
    parts = [
        "---\n" + "".join(f"{key}: {_format_yaml_as_json(value)}\n" for key, value in front.items()) + "---",
        f"# {escape_markdown(suite.name)}",
        "\n".join(map(escape_markdown, suite.header.description.split("\n"))).strip(),
        f"Base: {markdown_code(run.model)}, weights `{run.digests.get('base', '')[:16]}`. "
        f"Licence of the base: {escape_markdown(told_by)}.",
        f"Suite: {markdown_code(suite.path.name)} (`{run.digest[:16]}`), run {run.started} with harness {run.harness}. "
        f"Candidate: {escape_markdown(declared.candidate)}, weights `{ref.digest[:16]}`"
        f"{_describe_copy_origin(declared, run)}.",
        f"Code from outside the harness took part in it: {others}." if others else "",
        "## Gates\n\n" + "\n".join(_iterate_gate_table_lines(verdicts)),
        "## Waivers\n\n" + "\n".join(waivers) if waivers else "",
        "\n\n".join(escape_markdown(f"{c[0].upper()}{c[1:]}.") for c in run.conclusions),
        USE + usage_markdown(ref, run.model),
        f"Hot-swapping it beside another adapter on a base in memory took {took:g} ms." if took else "",
        "## Check\n\n```bash\nharness verify .                        # the bytes are the "
        "evaluated ones\nharness verify . --policy policy.toml   # and a key that you trust has "
        "signed them\n```",
    ]
    return redact_text("\n\n".join(part for part in parts if part)) + "\n"


def _describe_plugin(plugin: Mapping[str, Any]) -> str:
    """Format a plugin's name, label and code digest."""
    about = [*filter(None, [plugin["distribution"]]), f"sha256:{str(plugin['code'])[:16]}"]
    return f"{plugin['name']} ({', '.join(about)})"


def _format_yaml_as_json(value: Any) -> str:
    """Format a YAML value as JSON. Characters that YAML treats as line breaks are escaped, in a form valid in both."""
    return escape_controls(json.dumps(value, ensure_ascii=False))


def find_base_licence(folder: Path, facts: Mapping[str, Any]) -> BaseLicence:
    """Return the Hub's name for a base's licence, and its source. The name is "unknown" if no file states one."""
    if said := facts.get("license"):
        return BaseLicence(str(said), f"{said}, according to its own metadata")
    readme = folder / "README.md"
    front = readme.read_text("utf-8") if readme.is_file() else ""
    if found := re.search(r"\A---\n.*?^license:\s*(\S+)", front, re.M | re.S):
        return BaseLicence(found[1].strip("\"'"), f"{found[1]}, according to its model card")
    for path in sorted(folder.glob("LICEN[CS]E*")):
        text = " ".join(path.read_text("utf-8", "replace")[:400].lower().split())
        named = next((name for words, name in LICENCES.items() if words in text), "other")
        return BaseLicence(named, f"{named}, see `model/{path.name}`")
    return BaseLicence("unknown", "not stated in its files; find it out before you pass the model on")


def usage_markdown(ref: ModelRef, base: str) -> str:
    """Return Markdown on loading and serving an export."""
    careful, auto = "", _choose_auto_class(Path(ref.path))
    if ref.adapter:
        load = [
            "from peft import PeftModel",
            f"from transformers import {auto}, AutoTokenizer",
            "",
            f'base = {auto}.from_pretrained("BASE")  # {escape_controls(base)}',
            'model = PeftModel.from_pretrained(base, "model")',
            'tokenizer = AutoTokenizer.from_pretrained("BASE")',
        ]
        peft = ref.adapter / "adapter_config.json"
        rank = json.loads(peft.read_text("utf-8")).get("r", 0) if peft.is_file() else 0
        room = f" --max-lora-rank {rank}" if rank > VLLM_RANK else ""
        serve = f"vllm serve BASE --enable-lora{room} --lora-modules tuned=model"
    elif single := find_gguf(Path(ref.path)):
        load = [
            "from llama_cpp import Llama",
            "",
            f"model = Llama({_format_yaml_as_json(f'model/{single.name}')}, n_ctx=0)"
            "  # its own context and chat template",
            'model.create_chat_completion([{"role": "user", "content": "…"}])',
        ]
        serve = f"llama-server -m {shlex.quote(escape_controls(f'model/{single.name}'))}"
        if ROPE_FACTORS in read_gguf(single).tensors:
            careful = SCALED_ROPE_TEXT
    else:
        load = [
            f"from transformers import {auto}, AutoTokenizer",
            "",
            f'model = {auto}.from_pretrained("model")',
            'tokenizer = AutoTokenizer.from_pretrained("model")',
        ]
        serve = "vllm serve model"
        if method := _find_quantisation_library(Path(ref.path)):
            load.insert(0, f"# quantised: needs {escape_controls(method)} as well as transformers")
    return "\n".join(["```python", *load, "```", "", "```bash", serve, "```", careful]).rstrip()


def load_from_hub(card: str, repo: str) -> str:
    """Rewrite a card to load from OWNER/NAME instead of `model`. See `usage_markdown` for the lines that change."""
    before, heading, use = card.partition(USE)
    use, check, after = use.partition("\n## ")
    before = re.sub(r"(?<=, see `)model/(?=LICEN[CS]E)", "", before)  # its files are those of the repository
    for pattern, there in (
        (r'Llama\("model/', f'Llama.from_pretrained("{repo}", "'),
        (r"llama-server -m ('?)model/", rf"llama-server --hf-repo {repo} --hf-file \1"),
        (r'\("model"\)', f'("{repo}")'),
        (r'\(base, "model"\)', f'(base, "{repo}")'),
        (r"\bvllm serve model$", f"vllm serve {repo}"),
        (r"\btuned=model$", f"tuned={repo}"),
    ):
        use = re.sub(pattern, there, use, flags=re.M)
    return before + heading + use + check + after


def _choose_auto_class(folder: Path) -> str:
    """Return the class of transformers that loads all of a model: another one where it reads more than text."""
    config = folder / "config.json"
    told = json.loads(config.read_text("utf-8")) if config.is_file() else {}
    beside = [key for key, value in told.items() if key.endswith("_config") and isinstance(value, dict)]
    more = {*beside} - {"text_config", "quantization_config"}
    return "AutoModelForImageTextToText" if "text_config" in beside and more else "AutoModelForCausalLM"


def _iterate_model_index_results(suite: Suite, declared: Export, run: Run) -> Iterator[dict[str, Any]]:
    data = {e.name: e.data or e.use for e in suite.evals}
    for report in run.results:
        if report.subject == declared.candidate and report.outcome == "done":
            values = {name: v for name, v in report.metrics.items() if math.isfinite(v)}
            yield {
                "task": {"type": "text-generation"},
                "dataset": {"name": report.eval, "type": data.get(report.eval, report.eval)},
                "metrics": [{"type": name, "name": f"{report.eval}.{name}", "value": v} for name, v in values.items()],
            }


def _iterate_gate_table_lines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield "| gate | claim | verdict | measured |"
    yield "|---|---|---|---|"
    for v in verdicts:
        said = f"{v.outcome}{'' if v.blocking else ' (warn)'}" + (f", {v.waiver.summary()}" if v.waiver else "")
        yield "| " + " | ".join(map(escape_markdown, (v.gate, format_claim(v), said, v.why))) + " |"


def _find_quantisation_library(folder: Path) -> str:
    """Return the quantisation method in a model's configuration, or "" without one."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        return str((config.get("quantization_config") or {}).get("quant_method", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _describe_copy_origin(declared: Export, run: Run) -> str:
    """Describe the origin of a copy, with facts from its exporter."""
    if not declared.name:
        return ""
    said = ", ".join(f"{k} = {json.dumps(v, default=str)}" for k, v in redact_options(declared.options).items())
    told = f'made by "{declared.use}"' + (f" ({said})" if said else "")
    facts = "".join(f", {k} {v}" for k, v in redact_options(run.facts.get(declared.name, {})).items())
    parent = f"{escape_markdown(f'{told} of {declared.from_}')}, weights `{run.digests[declared.from_][:16]}`"
    return f", {parent}{escape_markdown(facts)}"
