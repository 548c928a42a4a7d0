"""A loaded causal LM as the harness sees it: generate, logprobs, token_kl; and what is the same whatever computes."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar, Unpack

import torch
from transformers import PreTrainedModel

from harness import Completion, Generate, Generation, Logprob, ModelRef, Prompt, UsageError
from harness_hf import generation, models, sources
from harness_hf.abilities import find_causality_error, find_run_error
from harness_hf.classes import language_model_name
from harness_hf.cpu.linear import keep_decoded
from harness_hf.memory import iterate_row_slices
from harness_hf.scoring import Scored, Scorer
from harness_hf.tokens import ModelTokenizer, Pair

T = TypeVar("T")
Activate = Callable[[], Any]  # a context manager in which the shared model is this subject


class TokenizedSubject:
    """A model in a folder, independent of its runtime. `context` is the most tokens that it is given."""

    def __init__(self, ref: ModelRef, folder: str, tokens: ModelTokenizer, context: int) -> None:
        self.name, self.tokens, self.context = ref.name, tokens, context
        files = [Path(folder), *([ref.adapter] if ref.adapter else [])]
        self.digest = ref.digest
        if not ref.digest:  # of the weights that answer: the model's, and with an adapter or a quantisation those too
            parts = [sources.folder_digest(f) for f in files]
            parts += [json.dumps(dict(q), sort_keys=True, default=str)] if (q := ref.quantization) else []
            self.digest = parts[0] if len(parts) == 1 else hashlib.sha256(" ".join(parts).encode()).hexdigest()
        self.parameters = sum(sources.count_parameters(f) for f in files)
        self.nbytes = sum(sources.weight_bytes(f) for f in files)
        self.notes: list[str] = []
        self._told: set[str] = set()

    @property
    def prefix(self) -> str:
        """Return the text of the token before a text without prompt."""
        return str(self.tokens.tokenizer.decode([self.tokens.prefix_id]))

    def count_tokens(self, pairs: Sequence[tuple[Prompt, str]]) -> list[int]:
        """Count the tokens of each prompt and continuation together."""
        return [len(context) + len(target) for context, target in self.tokens.encode_pairs(pairs)]

    def prompt_tokens(self, prompt: Prompt) -> list[str]:
        """Return the text of each token of a prompt.

        A chat ends with the answer's turn opened. Raises UsageError if it cannot be rendered.
        """
        [ids] = self.tokens.encode_prompts([prompt])
        return self.tokens.texts_of(ids)

    def render(self, messages: list[dict[str, str]]) -> str:
        """Render chat messages, with the answer's turn opened. Raises UsageError if the template cannot."""
        return self.tokens.render(messages)

    def encode_prompts(self, prompts: Sequence[Prompt], how: Generate) -> tuple[list[list[int]], list[int]]:
        """Encode prompts for generation, and count each one's lost tokens.

        Prompts are cut from the left where `how` allows it. Raises UsageError if one fills the context.
        """
        whole = encoded = self.tokens.encode_prompts(prompts)
        if how.truncate:
            room = max(1, self.context - how.max_new_tokens - (how.thought_budget.tokens if how.thought_budget else 0))
            encoded = [ids[-room:] for ids in encoded]
        longest = max(map(len, encoded), default=0)
        if longest >= self.context:
            raise self._make_context_error("a prompt", longest)
        return encoded, [len(ids) - len(left) for ids, left in zip(whole, encoded, strict=True)]

    def encode_windows(self, pairs: Sequence[tuple[Prompt, str]], *, truncate: bool) -> list[list[Pair]]:
        """Encode pairs for scoring, and whole texts in windows.

        Raises UsageError if one is too long, or a continuation is empty.
        """
        encoded = zip(pairs, self.tokens.encode_pairs(pairs, as_lm_eval=truncate), strict=True)
        return [
            [self.fit_pair(context, target, truncate)] if prompt else self.rolling_windows(context, target)
            for (prompt, _), (context, target) in encoded
        ]

    def fit_pair(self, context: list[int], target: list[int], truncate: bool) -> Pair:
        """Return a pair that fits into the context, or raise UsageError."""
        length = len(context) + len(target)
        if not target:
            raise UsageError(f'model "{self.name}": an empty continuation has no log-probability; correct the choices')
        if length > self.context + 1 and (not truncate or len(target) > self.context):
            raise self._make_context_error("a row", length)
        return context[max(0, length - self.context - 1) :], target

    def _make_context_error(self, what: str, tokens: int) -> UsageError:
        return UsageError(
            f'model "{self.name}": {what} has {tokens} tokens, but the context is {self.context}; shorten it'
        )

    def rolling_windows(self, context: list[int], ids: list[int]) -> list[Pair]:
        """Cut a text into windows that predict each token once. They are lm_eval's rolling windows."""
        size = self.context
        begun = size + 1 - len(context)  # tokens of the first window
        windows = [(context, ids[:begun])] if ids else []
        for start in range(begun, len(ids), size):
            end = min(start + size, len(ids))
            windows.append((ids[max(end - size - 1, 0) : start], ids[start:end]))
        return windows

    def add_note(self, what: str) -> None:
        """Note something once."""
        if what not in self._told:
            self._told.add(what)
            self.notes.append(f"{self.name}: {what}")


class HFSubject(TokenizedSubject):
    """A causal LM: a model in memory, its tokens, and how to switch its adapter on or off."""

    def __init__(
        self,
        ref: ModelRef,
        folder: str,
        model: PreTrainedModel,
        tokens: ModelTokenizer,
        activate: Activate,
        **options: Any,
    ) -> None:
        super().__init__(ref, folder, tokens, tokens.context_limit(sources.context_length(model.config.to_dict())))
        self.model, self._active = model, activate
        self._raise_if_unsupported(ref, find_run_error(model))
        self.scorer = Scorer(model, self.context, **options)
        self._note_why_prefixes_unshared()
        # where rows are shared, what follows a token is masked by us; a part of a whole may look ahead all the same
        if not self.scorer.packs or language_model_name(model):
            self._raise_if_unsupported(ref, find_causality_error(model))

    def _raise_if_unsupported(self, ref: ModelRef, why: str | None) -> None:
        if why:
            what = f'model "{ref.name}": {type(self.model).__name__} {why}'
            raise UsageError(f"{what}; use a causal LM (for an encoder set is_decoder = true in config.json)")

    def generate(self, prompts: Sequence[Prompt], **options: Unpack[Generation]) -> list[str]:
        """Answer each prompt; see `stream_generate`."""
        return _sort_numbered_answers(self.stream_generate(prompts, **options))

    def stream_generate(
        self, prompts: Sequence[Prompt], **options: Unpack[Generation]
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (number, completion) for each prompt as completions end.

        Decoding is greedy unless sampling is requested. A text ends before the first stop string or stop token.
        `truncate` cuts prompts from the left so that `max_new_tokens` have room; without it UsageError is raised if a
        prompt fills the context.
        """
        how = Generate(**options)
        encoded, lost = self.encode_prompts(prompts, how)
        self._require_tokens_in_embeddings(encoded)
        about: dict[str, Any] = {"context": self.context, "tell": self.add_note}
        with self._active():
            for number, said in generation.generate_completions(self.model, self.tokens, encoded, how, **about):
                said.lost = lost[number]
                yield number, said

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]], **options: Any) -> list[Logprob]:
        """Score each continuation after its prompt; see `stream_logprobs`."""
        return _sort_numbered_answers(self.stream_logprobs(pairs, **options))

    def stream_logprobs(
        self, pairs: Sequence[tuple[Prompt, str]], *, truncate: bool = False
    ) -> Iterator[tuple[int, Logprob]]:
        """Yield (number, score) for each continuation as it is done.

        It is scored after its prompt; without one it is a whole text, in windows if it is long. Raises UsageError if a
        continuation is empty, and if a prompt and its continuation are longer than the context, unless `truncate` lets
        the prompt lose its beginning. `truncate` does all as lm_eval does: a whole text has two BOS before it if the
        tokenizer adds one itself.
        """
        windows = self.encode_windows(pairs, truncate=truncate)
        self._require_tokens_in_embeddings(context + target for several in windows for context, target in several)
        owners = [i for i, several in enumerate(windows) for _ in several]
        waiting = [len(several) for several in windows]
        sums = [Scored() for _ in windows]
        yield from ((i, Logprob(0.0, 0, 0, True)) for i, several in enumerate(windows) if not several)  # no text
        with self._active():
            for number, scored in self.scorer.score([window for several in windows for window in several]):
                i = owners[number]
                sums[i].merge(scored)
                waiting[i] -= 1
                if not waiting[i]:
                    yield i, Logprob(sums[i].total, sums[i].tokens, len(pairs[i][1].encode()), sums[i].greedy)
        self._note_why_prefixes_unshared()

    def forget(self) -> None:
        """Drop cached state of earlier requests that affects later ones."""
        self.scorer.forget()

    def token_kl(self, texts: Sequence[str], against: HFSubject) -> list[tuple[float, int]]:
        """Per text: the sum over its tokens of KL(against ‖ self) in nats, and the number of tokens.

        Both models must have the vocabulary and the tokenizer in common; raises UsageError when they do not.
        """
        encoded = self.tokens.encode_pairs([("", text) for text in texts])
        if against.tokens.encode_pairs([("", text) for text in texts]) != encoded:
            names = f'"{self.name}" and "{against.name}"'
            raise UsageError(f"drift: {names} have different tokenizers, so they cannot be compared")
        self._require_tokens_in_embeddings(context + target for context, target in encoded)
        windows = [self.rolling_windows(*pair) for pair in encoded]
        sums = iter(self._compute_kl_sums([window for several in windows for window in several], against))
        sizes = [len(target) for _, target in encoded]
        return [(sum(next(sums) for _ in several), size) for several, size in zip(windows, sizes, strict=True)]

    def _compute_kl_sums(self, windows: list[Pair], against: HFSubject) -> list[float]:
        totals = [0.0] * len(windows)
        for subject in (self, against):
            with subject._active():
                subject.scorer.probe(windows)
        if self.scorer.packs != against.scorer.packs:  # they read the same rows
            for subject in (self, against):
                subject.scorer.packs = False
        for row in self.scorer.rows(windows, positions=256):
            with against._active():
                theirs = against.scorer.logits(row)
            with self._active():
                ours = self.scorer.logits(row)
            if ours.shape != theirs.shape:
                sizes = f"{ours.shape[-1]} and {theirs.shape[-1]}"
                raise UsageError(f"drift: vocabularies of {sizes} tokens cannot be compared")
            kl: list[float] = []
            for some in iterate_row_slices(ours):
                p, q = (side[some].float().log_softmax(-1) for side in (theirs, ours))
                kl += (p.exp() * (p - q)).sum(-1).double().tolist()
            for number, places, _ in row.targets:
                totals[number] += sum(kl[place] for place in places)
        return totals

    def _require_tokens_in_embeddings(self, rows: Iterable[Sequence[int]]) -> None:
        """Raise UsageError for a token without an embedding. torch would fail on it."""
        size = self.model.get_input_embeddings().weight.shape[0]
        if (token := max((max(ids, default=0) for ids in rows), default=0)) >= size:
            text = self.tokens.tokenizer.convert_ids_to_tokens(token)
            what = f'token {token} of a row ("{text}") is beyond its {size} embeddings'
            raise UsageError(f'model "{self.name}": {what}; resize the embeddings, or use the base\'s tokenizer')

    def _note_why_prefixes_unshared(self) -> None:
        if why := self.scorer.why_plain:
            self.add_note(f"prefixes are not shared, so each row is computed separately: {why}")


def _sort_numbered_answers(found: Iterator[tuple[int, T]]) -> list[T]:
    return [answer for _, answer in sorted(found, key=lambda numbered: numbered[0])]


def load_subjects(
    refs: Sequence[ModelRef], folders: Sequence[str], placed: Mapping[str, Any], **options: Any
) -> list[HFSubject]:
    """Load the models of several refs, sharing bases where possible.

    `placed` holds dtype, device and other options of `load_model`.
    """
    bases: dict[str, _Base] = {}
    subjects = []
    for i, (ref, folder) in enumerate(zip(refs, folders, strict=True)):
        key = json.dumps([folder, dict(ref.quantization or {})], sort_keys=True, default=str)
        if ref.adapter and models.rewrites_base(ref.adapter):
            key += f" {i}"
        if key not in bases:
            model = models.load_model(folder, quantization=ref.quantization, **placed)
            keep_decoded(model)
            bases[key] = _Base(model, ModelTokenizer.of(folder))
        base = bases[key]
        subjects.append(HFSubject(ref, folder, base.causal, base.tokens, base.activation(ref.adapter), **options))
        if placed["dtype"] == "auto" and base.causal.dtype == torch.float16:
            subjects[-1].add_note("computes in float16, since this GPU has no bfloat16")
    return subjects


def release_subjects(subjects: list[HFSubject]) -> None:
    """Free the models of subjects before others are loaded. The list is emptied."""
    for subject in subjects:
        subject.scorer.close()
        subject.model = None
        subject._active = nullcontext  # what it held was the model
    subjects.clear()
    free_memory()


def free_memory() -> None:
    """Collect cyclic garbage and empty PyTorch's GPU cache."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class _Base:
    """A model in memory shared by several subjects. Each has an adapter of its own or none."""

    def __init__(self, model: PreTrainedModel, tokens: ModelTokenizer) -> None:
        self.causal = self.model = model  # `causal` stays the causal LM itself when `model` becomes a PeftModel
        self.tokens = tokens
        self.adapters: dict[str, str] = {}
        if head := model.get_output_embeddings():
            # In one piece: with a frozen weight, torch.matmul copies the vocabulary's matrix once a row otherwise
            # (2.2 GB for 40 rows of a model of 135 M parameters).
            head.register_forward_pre_hook(lambda _, states: tuple(x.contiguous() for x in states))

    def activation(self, adapter: Path | None) -> Activate:
        if adapter is None:
            return lambda: self.model.disable_adapter() if self.adapters else nullcontext()
        name = self.adapters.setdefault(str(adapter), f"adapter{len(self.adapters)}")
        if name not in getattr(self.model, "peft_config", {}):
            self.model = models.add_adapter(self.model, adapter, name).eval()

        def switched() -> nullcontext[None]:
            self.model.set_adapter(name)
            return nullcontext()

        return switched
