"""A model in vLLM as the harness sees it: generate, logprobs; its tokens and windows are those of "hf".

An adapter is folded into its base: docs/decisions/0034-vllm-folds-adapters.md says why.
"""
# ruff: noqa: TID253 (imported only where a model is loaded)

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Unpack

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import harness_hf
from harness import (
    CheckFailedError,
    Completion,
    FinishReason,
    Generate,
    Generation,
    Logprob,
    ModelRef,
    Prompt,
    UsageError,
    cache_dir,
    digest_value,
)
from harness.internals import hold_exclusively, replace_folder, try_lock
from harness_hf import AnswerState, ModelTokenizer, StopCondition, ThoughtMarkers, TokenizedSubject, format_one_line
from harness_lora import FolderMerger, check_base, check_mergeable, make_plan, merge_threads, read_config
from harness_vllm import environment, scoring
from harness_vllm.engine import VLLM, EngineAnswer
from harness_vllm.environment import Flags

HEX_DIGITS = 32  # hex digits by which a folder is named


class VLLMSubject(TokenizedSubject):
    """A causal LM in an engine of its own."""

    def __init__(self, ref: ModelRef, folder: str, flags: Flags, share: int) -> None:
        tokens, base = ModelTokenizer.of(folder), Path(folder)
        named = harness_hf.open_source(folder).context
        super().__init__(
            ref, folder, tokens, environment.max_context(tokens.context_limit(named), flags.max_model_len, folder)
        )
        self.dtype = harness_hf.resolve_dtype(flags.dtype, harness_hf.resolve_device("auto"))
        self.stops = sorted(tokens.stop_ids | environment.stop_tokens(base))
        with fold_adapter(base, ref.adapter, self.dtype, ref.digest) as whole:
            self.engine = VLLM(ref.name, whole, self.dtype, self.context + environment.SPARE_TOKENS, flags, share)
        dtype = str(self.dtype).removeprefix("torch.")
        [ids] = tokens.encode_prompts(
            [scoring.SHARED_PROMPT * 64]
        )  # a beginning in common, long enough to be read from the cache
        room = min(self.context - 32, 4 * self.engine.block)
        probes = [
            (ids[: max(1, room - 8 + i)], end[:16])
            for i, end in enumerate(tokens.encode_prompts(list(scoring.TARGET_ENDS)))
        ]
        try:
            scoring.compare_prefix_cache(self.engine, probes, self.name, dtype)
        except (UsageError, CheckFailedError):
            raise
        except Exception as error:  # what the hardware's kernels have not shows when they are first used
            what = f"vLLM loads it, but cannot run it: {format_one_line(error)}"
            raise UsageError(f'model "{self.name}": {what}; use = "hf"') from None
        if ref.adapter:
            self.add_note(f"merged into its base for vLLM, rounded once to {dtype}")

    def generate(self, prompts: Sequence[Prompt], **options: Unpack[Generation]) -> list[str]:
        """Answer each prompt, greedily unless told to sample; see `Subject`. Drawn tokens are vLLM's own."""
        how = Generate(**options)
        encoded, lost = self.encode_prompts(prompts, how)
        if how.max_new_tokens <= 0:
            return [Completion("", "length", 0) for _ in prompts]
        stops = sorted({*self.stops, *(i for i in map(self.tokens.special_token_id, how.stop) if i is not None)})
        rooms = [self.context - len(ids) for ids in encoded]
        if how.thought_budget:
            marks = ThoughtMarkers.of(self.tokens, how.thought_budget, how.max_new_tokens)
            answers = self._answer_in_thought_rounds(encoded, rooms, how, marks, stops)
            for said, less in zip(answers, lost, strict=True):
                said.lost = less
            return list(answers)
        found = self.engine.answer(encoded, how, [min(how.max_new_tokens, room) for room in rooms], stops)
        bounds: list[FinishReason] = ["length" if how.max_new_tokens <= room else "context" for room in rooms]
        return [
            Completion(
                *self._decode_answer_and_finish_reason(answer, how.stop, {*stops}, bound),
                len(answer.token_ids),
                lost=less,
            )
            for answer, bound, less in zip(found, bounds, lost, strict=True)
        ]

    def _answer_in_thought_rounds(
        self, prompts: list[list[int]], rooms: Sequence[int], how: Generate, marks: ThoughtMarkers, stops: Sequence[int]
    ) -> list[Completion]:
        """Generate answers in rounds.

        Each round goes up to where a thought ends or is closed by force. The tokens are interpreted by the AnswerState
        of "hf".
        """
        ending, most = StopCondition(self.tokens, frozenset(stops), tuple(how.stop)), marks.max_tokens
        answers = [
            AnswerState(i, ids, min(most, room), ending, bound="length" if most <= room else "context", thinking=begun)
            for i, (ids, room, begun) in enumerate(zip(prompts, rooms, map(marks.start_thought, prompts), strict=True))
        ]
        while going := [answer for answer in answers if not answer.ended]:
            asked, numbers = [answer.prompt + answer.ids for answer in going], [answer.number for answer in going]
            found = self.engine.answer(asked, how.for_prompts(numbers), [answer.free_tokens for answer in going], stops)
            for answer, more in zip(going, found, strict=True):
                answer.append_generated(more.token_ids)
        return [answer.to_completion() for answer in answers]

    def _decode_answer_and_finish_reason(
        self, answer: EngineAnswer, strings: Sequence[str], stops: set[int], bound: FinishReason
    ) -> tuple[str, FinishReason]:
        """Return an answer as "hf" decodes it, and its finish reason.

        The text ends at the first stop string or token. Some versions of vLLM report "length" for a stop token in the
        last allowed place.
        """
        ids = list(answer.token_ids)
        eos = bool(ids) and ids[-1] in stops
        text = self.tokens.decode(ids[:-1] if eos else ids)
        found = [at for s in strings if s and (at := text.find(s)) >= 0]
        if not found and isinstance(answer.stop_reason, str):  # it is there only as vLLM writes it
            return answer.text, "stop"
        if found:
            return text[: min(found)], "stop"
        return text, "eos" if eos else bound if answer.finish_reason == "length" else ""

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]], *, truncate: bool = False) -> list[Logprob]:
        """Score each continuation after its prompt, or a whole text.

        A long text without a prompt is scored in windows; see `Subject`.
        """
        windows = self.encode_windows(pairs, truncate=truncate)
        scores = iter(scoring.score_windows(self.engine, [window for several in windows for window in several]))
        found = []
        for several, (_, text) in zip(windows, pairs, strict=True):
            own = [next(scores) for _ in several]
            tokens = sum(len(target) for _, target in several)
            found.append(Logprob(sum(s.total for s in own), tokens, len(text.encode()), all(s.greedy for s in own)))
        return found

    def forget(self) -> None:
        """Drop the prefix cache of earlier requests."""
        self.engine.forget()


def load_subjects(refs: Sequence[ModelRef], flags: Flags) -> list[VLLMSubject]:
    """Load each model in an engine of its own.

    Raises UsageError if a model cannot be loaded, or if it is in 4 bits.
    """
    subjects, pins = list[VLLMSubject](), {"revision": flags.revision, "sha256": flags.sha256}
    try:
        for ref in refs:
            if ref.quantization:
                what = 'is loaded in 4 bits, which is not tested with vLLM; use = "hf", or [adapter] use = "lora"'
                raise UsageError(f'model "{ref.name}": {what}')
            folder = harness_hf.resolve_folder(ref.path, **({} if Path(ref.path).is_dir() else pins))
            subjects.append(VLLMSubject(ref, str(folder), flags, len(refs)))
    except BaseException:
        release_engines(subjects)
        raise
    return subjects


def release_engines(subjects: list[VLLMSubject]) -> None:
    """End the engines."""
    for subject in subjects:
        subject.engine.close()
    subjects.clear()


@contextmanager
def fold_adapter(base: Path, adapter: Path | None, dtype: torch.dtype, digest: str = "") -> Iterator[Path]:
    """Yield a temporary folder with an adapter folded into its base.

    Without an adapter it is the base's own folder. Concurrent processes with the same `digest` and paths share one
    folder, and the last removes it; folders of killed processes are removed by the next. The sum is computed in float64
    and rounded once, to the dtype of inference. Raises UsageError if an adapter cannot be folded.
    """
    if adapter is None:
        yield base
        return
    place = cache_dir() / "vllm" / digest_value([digest, str(base), str(adapter), str(dtype)])[:HEX_DIGITS]
    with hold_exclusively(place.parent / "folding.lock"):
        for left in place.parent.glob("[0-9a-f]" * HEX_DIGITS):
            _remove_unlocked_folder(left)
        if not place.exists():
            with replace_folder(place) as work:
                _write_merged_base(base, adapter, dtype, work)
        handle = os.open(place, os.O_RDONLY)
        try_lock(handle, shared=True)
    try:
        yield place
    finally:
        with hold_exclusively(place.parent / "folding.lock"):
            os.close(handle)
            _remove_unlocked_folder(place)


def _remove_unlocked_folder(folder: Path) -> None:
    with suppress(OSError):  # another user's, or it is gone
        handle = os.open(folder, os.O_RDONLY)
        if try_lock(handle):
            shutil.rmtree(folder)
        os.close(handle)


def _write_merged_base(base: Path, adapter: Path, dtype: torch.dtype, work: Path) -> None:
    try:
        check_mergeable(read_config(adapter), trained=True)
        there, _ = check_base(base)
        plan = make_plan(base, adapter, there, None)
    except UsageError as error:
        what = "; ".join(m.removeprefix("[merge] ") for m in error.messages)
        how = 'vLLM evaluates the adapter merged into its base; use = "hf" evaluates it unmerged'
        raise UsageError(f"{what} ({how})") from None
    files = {header.file for header in there.values()}
    with merge_threads() as pool:
        merge = FolderMerger(plan, None, dtype, pool)
        for file in sorted(files):
            with safe_open(file, "pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 -- no mapping
            for name in tensors.keys() & plan.must_change:
                before = tensors[name].float()  # holds any half precision, so that rounding is left to the end
                parts = merge.map_blocks(name, before, lambda _, total: total.to(dtype))
                tensors[name] = torch.cat(parts).reshape(before.shape).contiguous()
            save_file(tensors, work / file.name, {"format": "pt"})
    for path in base.iterdir():
        if path not in files:
            (work / path.name).symlink_to(path.absolute())
