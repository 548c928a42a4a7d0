"""A batch of growing answers, and its key-value cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from harness_hf.answers import AnswerState, Choose, choose_tokens

PREFILL = {"cpu": 512, "cuda": 2048}  # prompt tokens of one forward pass; on a CPU more of them only need more padding
GROWTH_TOKENS = 64  # columns added to the cache at a time


class Batch:
    """The answers in work. Their own tokens end in the last column of the cache; before them is padding."""

    copies_prefix = True  # into the cache of each row

    def __init__(self, model: PreTrainedModel, prefix: list[int], choose: Choose, *, size: int) -> None:
        self.model, self.prefix, self.choose, self.size = model, prefix, choose, size
        self.prefill = PREFILL.get(model.device.type, PREFILL["cuda"])
        self.before = len(prefix) if self.copies_prefix else 0  # columns of the prefix in the rows' cache
        self.rows: list[AnswerState] = []
        self.pads: list[int] = []  # columns of padding of each row, after the prefix
        self.start: Cache | None = None  # the prefix, one row
        self.cache = self._make_empty_cache()

    @torch.inference_mode()
    def join(self, answers: list[AnswerState]) -> list[AnswerState]:
        """Run new prompts and add them to the batch. Return the answers that end at their first token."""
        self.rows += answers  # first of all, so that nothing is lost when memory runs out
        own = [answer.prompt[len(self.prefix) :] for answer in answers]
        width = max(map(len, own))
        pads = [width - len(ids) for ids in own]
        ids = torch.tensor([[0] * pad + mine for pad, mine in zip(pads, own, strict=True)], device=self.model.device)
        if self.prefix and self.start is None:
            start = self._make_empty_cache()
            for at in range(0, len(self.prefix), self.prefill):
                part = torch.tensor([self.prefix[at : at + self.prefill]], device=self.model.device)
                places = torch.arange(at + part.shape[1], device=self.model.device)[None]  # (1, L)
                options = {"attention_mask": torch.ones_like(places), "position_ids": places[:, at:]}
                self.model(input_ids=part, **options, cache=start, use_cache=True, logits_to_keep=1)
            self.start = start
        cache = self._make_empty_cache()
        if self.start is not None and self.copies_prefix:
            for layer, known in zip(cache.layers, self.start.layers, strict=True):
                layer.update(known.keys.expand(len(ids), -1, -1, -1), known.values.expand(len(ids), -1, -1, -1))
        goes_on = [True] * len(self.pads) + self._forward(ids, pads, cache, answers)
        missing = cache.get_seq_length() - self.cache.get_seq_length()
        if not self.pads:
            self.cache, missing = cache, 0
        else:  # below the rows that are there, all ending in the last column
            self._shift_padding(max(missing, 0))
            for layer, new in zip(self.cache.layers, cache.layers, strict=True):
                layer.append(new)
        self.pads += [pad + max(-missing, 0) for pad in pads]
        return self._remove_ended_rows(goes_on)

    @torch.inference_mode()
    def step(self) -> list[AnswerState]:
        """Give each row its next token; return the rows that ended."""
        if not self.rows:
            return []
        if self.cache.layers[0].is_full and min(self.pads) >= GROWTH_TOKENS:
            self._shift_padding(-min(self.pads))
        ids = torch.tensor([[answer.ids[-1]] for answer in self.rows], device=self.model.device)
        return self._remove_ended_rows(self._forward(ids, self.pads, self.cache, self.rows))

    def _forward(self, ids: Tensor, pads: Sequence[int], cache: Any, answers: Sequence[AnswerState]) -> list[bool]:
        """Run new tokens (B, T) and append each row's next one. Return which rows go on."""
        known = cache.get_seq_length()
        columns = torch.arange(known + ids.shape[1], device=ids.device)  # (L,)
        padding = torch.tensor([[self.before + pad] for pad in pads], device=ids.device)  # (B, 1): where it ends
        places = columns + len(self.prefix) - padding  # (B, L); the rows' own tokens count from the prefix on
        given = {"input_ids": ids, "attention_mask": ((columns < self.before) | (columns >= padding)).long()}
        given["position_ids"] = places[:, known:].clamp(min=0)
        done = self._run(given, cache)
        tokens = choose_tokens(done.logits[:, -1], answers, self.choose).tolist()
        return [answer.append(token) for answer, token in zip(answers, tokens, strict=True)]

    def _run(self, given: dict[str, Any], cache: Cache) -> Any:
        return self.model(**given, cache=cache, use_cache=True, logits_to_keep=1)

    def _make_empty_cache(self) -> Cache:
        layers = self.model.config.get_text_config().num_hidden_layers
        return Cache(layers=[CacheLayer(self.size, self.before) for _ in range(layers)])

    def _shift_padding(self, by: int) -> None:
        """Insert `by` columns of padding before all rows. A negative number removes them."""
        if by:
            self.pads = [pad + by for pad in self.pads]
            for layer in self.cache.layers:
                layer.shift(by)

    def _remove_ended_rows(self, goes_on: Sequence[bool]) -> list[AnswerState]:
        """Remove and return the rows that ended. The last rows take their places."""
        ended = [answer for answer, on in zip(self.rows, goes_on, strict=True) if not on]
        count = len(self.rows) - len(ended)
        free = [i for i in range(count) if not goes_on[i]]
        last = [i for i in range(count, len(goes_on)) if goes_on[i]]
        for to, row in zip(free, last, strict=True):
            self.rows[to], self.pads[to] = self.rows[row], self.pads[row]
        del self.rows[count:], self.pads[count:]
        if not count:
            self.cache = self._make_empty_cache()
        elif ended:
            for layer in self.cache.layers:
                layer.keep(count, free, last)
        return ended


class CacheLayer(DynamicLayer):  # type: ignore[misc] # transformers is not typed
    """Keys and values (B, G, L, D) in preallocated buffers.

    The buffers have more rows and columns than are used, so that the data stay in place.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, size: int, before: int) -> None:
        super().__init__()
        self.size, self.before = size, before  # rows at most; columns of the prefix, which never move
        self._room: list[Tensor] = []

    @property
    def is_full(self) -> bool:
        """Whether the next column needs a larger room."""
        return bool(self._room) and self.get_seq_length() == self._room[0].shape[-2]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        rows, start = len(key_states), self.get_seq_length()
        end = start + key_states.shape[-2]
        self._ensure_capacity(rows, end, like=(key_states, value_states))
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:rows, :, start:end] = new
        return self._set_visible_states(rows, end)

    def append(self, other: CacheLayer) -> None:
        """Append another layer's rows below those of this one. It may not have more columns."""
        rows, end, own = len(self.keys), self.keys.shape[-2], other.keys.shape[-2] - self.before
        more = rows + len(other.keys)
        self._ensure_capacity(more, end)
        for room, new in zip(self._room, (other.keys, other.values), strict=True):
            room[rows:more, :, : self.before] = new[:, :, : self.before]
            room[rows:more, :, self.before : end - own] = 0  # not seen, but NaN times 0 is NaN
            room[rows:more, :, end - own : end] = new[:, :, self.before :]
        self._set_visible_states(more, end)

    def shift(self, by: int) -> None:
        """Shift the columns after the prefix to the right. Padding fills the gap; a negative `by` shifts left."""
        rows, end, before = len(self.keys), self.keys.shape[-2], self.before
        self._ensure_capacity(rows, end + by)
        for room in self._room:
            own = room[:rows, :, before + max(-by, 0) : end].clone()
            room[:rows, :, before : before + max(by, 0)] = 0
            room[:rows, :, before + max(by, 0) : end + by] = own
        self._set_visible_states(rows, end + by)

    def keep(self, count: int, free: Sequence[int], last: Sequence[int]) -> None:
        """Keep the first `count` rows, filling gaps with the last.

        `free` are the places of rows that ended, `last` the rows that take them.
        """
        end = self.keys.shape[-2]
        for room in self._room:
            for to, row in zip(free, last, strict=True):
                room[to, :, :end] = room[row, :, :end]
        self._set_visible_states(count, end)

    def _set_visible_states(self, rows: int, end: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (room[:rows, :, :end] for room in self._room)
        self.is_initialized = True
        return self.keys, self.values

    def _ensure_capacity(self, rows: int, columns: int, like: Sequence[Tensor] = ()) -> None:
        """Grow the buffers to hold so many rows and columns. Their contents are kept."""
        there = self._room[0].shape if self._room else (0, 0, 0, 0)
        if rows <= there[0] and columns <= there[2]:
            return
        height = rows if rows <= there[0] or not self._room else max(rows, min(2 * rows, self.size))
        width = there[2] if columns <= there[2] else columns + GROWTH_TOKENS
        old = (self.keys, self.values) if self._room else tuple(state[:0, :, :0] for state in like)
        room = [state.new_empty(max(height, there[0]), state.shape[1], width, state.shape[3]) for state in old]
        for new, state in zip(room, old, strict=True):
            new[: len(state), :, : state.shape[2]] = state
        self._room = room
