"""D22 and M8: whether the base has a row for every token of training rows, and the tokens an adapter was made with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import harness_hf
from harness import Built, Finding, ModelRef, UsageError, checker, quote_text
from harness.internals import Suite, weight_files
from harness_checks.batches import FIXTURES
from harness_checks.clocks import stop_clock
from harness_checks.lint import count_of_total
from harness_checks.recipe import MAX_UNTRAINED_NORM, adapter_options, suggest_option, trains_module, weight_names
from harness_hf import IGNORED_LABEL, ModelTokenizer

BLOCK_ROWS = 4096  # rows of the head that are read at once


@checker(title="untrainable-tokens")
def untrainable_tokens(built: Built, base: ModelRef, suite: Suite) -> Iterator[Finding]:
    """Tokens in training rows without an embedding of their own.

    A token that was added to the tokenizer and never to the model is beyond the base's embeddings (-beyond): training
    ends in an IndexError, on a GPU in a failed assertion. If its row of the head is zeros (-zero), or another token's
    (-equal), as some ways to resize a vocabulary leave them, an adapter on the linears changes only the head's input:
    zeros stay zeros, and of two equal tokens neither can be the likelier one.
    """
    embeddings = built.model.get_input_embeddings().weight.shape[0]
    used = Counter(i for e in built.examples for i in set(e.ids))
    if beyond := sorted(i for i in used if i >= embeddings):
        fix = "resize the embeddings of the base, or use a base that has these tokens"
        what = f"tokens beyond the base's {embeddings:,} embeddings"
        yield _make_token_finding(built, beyond, what, fix, "beyond")
        return
    options, head = adapter_options(suite), built.model.get_output_embeddings()
    names = weight_names(built.model, head)
    if options is None or trains_module(names, options):
        return
    learnt = {i for e in built.examples for i in e.labels[1:] if i != IGNORED_LABEL}  # the first is never predicted
    tokens = learnt - _find_answer_opening_tokens(built)
    zeros, equal = _find_zero_and_twin_rows(Path(base.path), names, tokens)
    fix = f"set {suggest_option(names)} in [adapter], or use tokens that the base knows"
    if mute := sorted(zeros - ModelTokenizer(built.tokenizer).stop_ids):  # D20 reports the ends
        yield _make_token_finding(built, mute, "tokens whose row of the base's output embeddings is zero", fix, "zero")
    if equal:
        what = "tokens whose row of the base's output embeddings equals another token's"
        pairs = {i: f' = "{built.tokenizer.convert_ids_to_tokens(twin)}"' for i, twin in equal.items()}
        yield _make_token_finding(built, sorted(equal), what, fix, "equal", pairs)


@checker(title="adapter-tokenizer-mismatch")
def other_tokenizer(adapter: ModelRef, base: ModelRef) -> Iterator[Finding]:
    """An adapter's tokenizer or chat template that differs from the base's.

    Trainers save beside the adapter the ones that they trained with, but the base's are evaluated, merged and shipped:
    under another chat template the adapter seems to have learnt nothing, and tokens that it added are lost. Templates
    are compared by their output; a token that only pads may be added.
    """
    if (folder := adapter.adapter) is None or not (Path(base.path) / "tokenizer_config.json").is_file():
        return
    ours, template = harness_hf.load_tokenizer(base.path), folder / "chat_template.jinja"
    theirs = None
    if any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")):
        theirs = harness_hf.load_tokenizer(folder)
        before, after = ours.get_vocab(), theirs.get_vocab()
        spare = {theirs.pad_token} - before.keys()
        if odd := sorted(t for t in (before.keys() | after.keys()) - spare if before.get(t) != after.get(t)):
            what = (
                f'"{folder.name}" was trained with {len(after):,} tokens, but its base "{base.path}" '
                f"has {len(before):,}"
            )
            evidence = [
                f"{quote_text(token)}: {before.get(token)} in the base, {after.get(token)} here" for token in odd
            ]
            fix = "merge it onto the base that has these tokens, and give the result as the candidate"
            yield Finding("error", what, evidence, fix, "vocabulary")
    text = theirs.chat_template if theirs else template.read_text("utf-8") if template.is_file() else None
    if text and text != ours.chat_template:
        pairs = zip(
            _iterate_rendered_fixtures(ours, ours.chat_template), _iterate_rendered_fixtures(ours, text), strict=True
        )
        if odd := [f"base {quote_text(one)}, adapter {quote_text(two)}" for one, two in pairs if one != two]:
            what = f'"{folder.name}" has another chat template than its base "{base.path}", which is the one that ships'
            fix = "evaluate it on a base with that template, or remove the template from the adapter's folder"
            yield Finding("error", what, odd, fix, "template")


def _iterate_rendered_fixtures(tokenizer: Any, template: str | None) -> Iterator[str]:
    """Yield fixture conversations as a template renders them, or its error."""
    for turns in ([{"role": "system", "content": "Be brief."}, *FIXTURES[0]], *FIXTURES):
        for is_opened in (True, False):
            try:
                yield ModelTokenizer(tokenizer).render(turns, opened=is_opened, template=stop_clock(template))
            except UsageError as error:
                yield f"rejected: {error}"


def _find_answer_opening_tokens(built: Built) -> set[int]:
    """Return the tokens that a chat template writes before an answer.

    No model needs to generate them.
    """
    try:
        return set(ModelTokenizer(built.tokenizer).encode_prompts([[{"role": "user", "content": "?"}]])[0])
    except UsageError:
        return set()


def _make_token_finding(
    built: Built, tokens: Sequence[int], what: str, fix: str, kind: str, notes: dict[int, str] | None = None
) -> Finding:
    rows = {i: [e.number for e in built.examples if i in e.ids] for i in tokens[:5]}
    names = {i: built.tokenizer.convert_ids_to_tokens(i) for i in tokens[:5]}
    evidence = [f'"{names[i]}" ({i}){(notes or {}).get(i, "")}: row {rows[i][0]}' for i in rows]
    total = sum(any(i in e.ids for i in tokens) for e in built.examples)
    return Finding("error", f"{count_of_total(total, len(built.examples))}: {what}", evidence, fix, kind)


def _find_zero_and_twin_rows(folder: Path, names: Set[str], tokens: Set[int]) -> tuple[set[int], dict[int, int]]:
    """Return the tokens with zero rows and those with equal rows.

    The rows are of the named weight in a folder's files. The second maps a token to its twin.
    """
    import torch
    from safetensors import safe_open

    for file in weight_files(folder):
        with safe_open(folder / file, "pt") as opened:
            if name := next((n for n in opened.keys() if n in names), None):  # noqa: SIM118 -- no mapping
                weight = opened.get_slice(name)  # (V, H)
                known = torch.tensor(sorted(i for i in tokens if i < weight.get_shape()[0]), dtype=torch.long)
                rows, sums = _read_rows_and_bit_sums(weight, known)
                zeros = {int(i) for i in known[rows.abs().amax(-1) <= MAX_UNTRAINED_NORM]}
                return zeros, _find_tokens_with_equal_rows(weight, known, rows, sums, zeros)
    return set(), {}


def _read_rows_and_bit_sums(weight: Any, known: Any) -> tuple[Any, Any]:
    """Return some rows of a weight, and bit sums of all.

    The rows are float32. The sum is over the bits of a row, so that equal rows have equal sums. Shapes: (K, H) and
    (V,), for a weight of (V, H) and K tokens.
    """
    import torch

    size, width = weight.get_shape()
    factors = torch.randint(1 << 40, (width,), generator=torch.Generator().manual_seed(0)) * 2 + 1
    as_int = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    rows, sums = [], []
    for start in range(0, size, BLOCK_ROWS):
        block = weight[start : min(start + BLOCK_ROWS, size)].contiguous()
        inside = known[(known >= start) & (known < start + BLOCK_ROWS)] - start
        rows.append(block[inside].float())
        sums.append((block.view(as_int[block.element_size()]).long() * factors).sum(-1))
    return torch.cat(rows), torch.cat(sums)


def _find_tokens_with_equal_rows(weight: Any, known: Any, rows: Any, sums: Any, zeros: Set[int]) -> dict[int, int]:
    """Return the twin of each token that shares another token's row.

    Rows of zeros are left out.
    """
    order = sums.argsort(stable=True)
    places = {int(i): place for place, i in enumerate(order.tolist())}
    found = {}
    for i, row in zip(known.tolist(), rows, strict=True):
        near = (order[p] for p in (places[i] - 1, places[i] + 1) if 0 <= p < len(order))
        twins = [int(j) for j in near if sums[j] == sums[i]] if i not in zeros else []
        if twin := [j for j in twins if bool((weight[j : j + 1][0].float() == row).all())]:
            found[i] = twin[0]
    return found
