"""Ollama, from 0.12.11: tells a digest, parameters and log-probabilities of what it says; no tokens of a prompt."""

from __future__ import annotations

from typing import Any, ClassVar

from harness_api import table
from harness_served.runtime import Runtime


class Ollama(Runtime):
    """Ollama. It has defaults of its own for drawing, where neither request nor Modelfile name them."""

    kind: ClassVar[str] = "ollama"
    name: ClassVar[str] = "Ollama"
    hint: ClassVar[str] = "serve the same GGUF with llama.cpp's server, which tells tokens"
    probe: ClassVar[str] = "/api/version"

    def identity(self) -> dict[str, Any]:
        listed = self.ask(f"{self.root}/api/tags", None, table).get("models")
        entries = map(table, listed if isinstance(listed, list) else ())
        names = {self.model, f"{self.model}:latest"}
        own = next((m for m in entries if names & {m.get("name"), m.get("model")}), {})
        shown = self.ask(f"{self.root}/api/show", {"model": self.model}, table)
        told = {"version": self.told.get("version"), "digest": own.get("digest")}
        return told | {name: shown.get(name) for name in ("template", "parameters") if name in shown}
