"""Scoring: what is shared between requests changes how fast they are answered, and nothing else."""

from __future__ import annotations

import math
import random
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import harness_hf
from harness.errors import UsageError
from harness.records.models import ModelRef
from tests.helpers.late import import_late

torch = pytest.importorskip("torch")
transformers = import_late("transformers")

SHOTS = "".join(f"Question: what is {i} and {i}?\nAnswer: {2 * i}\n\n" for i in range(8))
CHOICES = [" seven", " seventy", " eight", " 8", " eighteen or so"]
TEXTS = ["A short text.", "", "word " * 250, "x"]  # the third is longer than the context of 512


@pytest.fixture
def subject(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Load the tiny model in float32."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    with harness_hf.load([ModelRef("base", str(tiny_model))], dtype="float32") as (loaded,):
        yield loaded


def make_few_shot_pairs(documents: int = 6) -> list[tuple[str, str]]:
    words = ["cat", "cats", "catalogue", "dog", "a dog", "do", "d", "zebra"]
    return [(f"{SHOTS}Question: {words[i]}?\nAnswer:", choice) for i in range(documents) for choice in CHOICES]


def score_by_hand(subject: Any, context: list[int], target: list[int]) -> tuple[float, bool]:
    """Score one pair with one forward pass of the whole sequence."""
    with torch.inference_mode():
        logits = subject.model(torch.tensor([context + target])).logits[0, len(context) - 1 : -1].float()
    logprobs = logits.log_softmax(-1)
    tokens = torch.tensor(target)
    return float(logprobs.gather(1, tokens[:, None]).sum()), bool((logits.argmax(-1) == tokens).all())


def assert_parity(subject: Any, pairs: list[tuple[Any, str]]) -> None:
    scored = subject.logprobs(pairs)
    for got, (context, target) in zip(scored, subject.tokens.encode_pairs(pairs), strict=True):
        total, greedy = score_by_hand(subject, context, target)
        assert got.total == pytest.approx(total, abs=1e-4 * len(target))
        assert (got.tokens, got.greedy) == (len(target), greedy)


@pytest.mark.parametrize("budget", [16, 40, 100, 512, 4096])
def test_shared_prefixes_change_nothing(subject: Any, budget: int) -> None:
    """Few-shot choices score as each by itself, however small the pieces they are run in."""
    subject.scorer.budget = budget
    pairs = make_few_shot_pairs()
    random.Random(0).shuffle(pairs)
    assert_parity(subject, pairs)


@pytest.mark.parametrize("budget", [16, 512])
def test_odd_requests_keep_parity(subject: Any, budget: int) -> None:
    """Duplicates, contexts that are beginnings of others, chat messages and single words are scored right together."""
    subject.scorer.budget = budget
    chat = [{"role": "user", "content": "Is it?"}]
    pairs = [
        ("a", " b"),
        ("a", " b c"),
        ("a b", " c"),
        ("a", " b"),
        (chat, "yes"),
        (chat, "yes, it is"),
        ("z " * 90, "y"),
    ]
    assert_parity(subject, [*pairs, *make_few_shot_pairs(1), (chat, "no")])


def test_every_token_of_the_tree_is_run_once(subject: Any) -> None:
    """A second call with the same examples in front runs only what is new."""
    pairs = make_few_shot_pairs(2)
    subject.scorer.budget = 256
    subject.logprobs(pairs[:5])
    before = subject.scorer.run
    subject.logprobs(pairs[5:8])  # below nine pairs nothing is checked
    assert subject.scorer.run - before < 100 < len(SHOTS)


def test_packing_runs_a_fraction_of_the_tokens(subject: Any) -> None:
    """Rows hold each shared token once: far fewer than the requests have."""
    encoded = subject.tokens.encode_pairs(make_few_shot_pairs())
    rows = list(subject.scorer.rows(encoded))
    run = len(rows[0].prefix) + sum(len(row.tokens) for row in rows)
    assert run * 15 < sum(len(context) + len(target) for context, target in encoded)
    wanted = sum(len(row.wanted) for row in rows)
    assert wanted < run  # and the vocabulary is projected at fewer places still


def test_a_row_sees_only_its_own_beginning(subject: Any) -> None:
    """Changing one request of a packed row moves no other."""
    pairs = make_few_shot_pairs(3)
    before = subject.logprobs(pairs)
    changed = subject.logprobs([*pairs[:-1], (pairs[-1][0], " another choice")])
    for a, b in zip(before[:-1], changed[:-1], strict=True):
        assert a.total == pytest.approx(b.total, abs=1e-4)


def test_reference_runs_plain_batches(tiny_model: Path, subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`reference = true` scores without sharing, to the same result."""
    pairs = make_few_shot_pairs(2)
    with harness_hf.load([ModelRef("base", str(tiny_model))], dtype="float32", reference=True) as (plain,):
        monkeypatch.setattr(plain.scorer, "_forward", lambda *_: pytest.fail("shared a prefix"))
        assert [p.total for p in plain.logprobs(pairs)] == pytest.approx(
            [p.total for p in subject.logprobs(pairs)], abs=1e-3
        )


@pytest.fixture
def lm_eval_backend(subject: Any) -> Any:
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    return huggingface.HFLM(pretrained=subject.model, tokenizer=subject.tokens.tokenizer, batch_size=4)


def make_request(kind: str, *arguments: str) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


@pytest.mark.parametrize("budget", [50, 512])
def test_rolling_equals_lm_eval(subject: Any, lm_eval_backend: Any, budget: int) -> None:
    """With `truncate` whole texts, longer than the context or empty, have lm_eval's rolling log-likelihood."""
    subject.scorer.budget = budget
    scored = subject.logprobs([("", text) for text in TEXTS], truncate=True)
    requests = [make_request("loglikelihood_rolling", text) for text in TEXTS]
    expected = lm_eval_backend.loglikelihood_rolling(requests, disable_tqdm=True)
    for text, got, total in zip(TEXTS, scored, expected, strict=True):
        assert got.total == pytest.approx(total, abs=1e-3)
        assert got.bytes == len(text.encode())
    assert scored[2].tokens == len("word " * 250) + 1  # and the BOS, which lm_eval's encoding adds


@pytest.mark.parametrize("budget", [50, 512])
def test_a_whole_text_stands_behind_one_bos(subject: Any, budget: int) -> None:
    """A text is scored behind the one BOS that models know, whoever writes it; what is longer goes in windows."""
    subject.scorer.budget = budget
    scored = subject.logprobs([("", text) for text in [*TEXTS, f"<s>{TEXTS[0]}"]])
    bos, text = subject.tokens.prefix_id, subject.tokens.encode_prompts([TEXTS[0]])[0][1:]
    assert scored[0].total == pytest.approx(score_by_hand(subject, [bos], text)[0], abs=1e-3)
    assert scored[4].total == scored[0].total
    assert [p.tokens for p in scored] == [len(t) for t in [*TEXTS, TEXTS[0]]]
    long = subject.tokens.encode_prompts([TEXTS[2]])[0][1:]
    windows = [([bos], long[:512]), (long[511:512], long[512:1024]), (long[-513:1024], long[1024:])]
    assert scored[2].total == pytest.approx(sum(score_by_hand(subject, *w)[0] for w in windows), abs=2e-3)


def test_choices_equal_lm_eval(subject: Any, lm_eval_backend: Any) -> None:
    """With `truncate` log-likelihood and greediness are lm_eval's, which moves spaces that end the context.

    Without it they are the same but for such contexts, of which the continuation alone is scored.
    """
    pairs = [*make_few_shot_pairs(2), ("Ends in a space ", "here"), ("Ends in a line\n", "here")]
    expected = lm_eval_backend.loglikelihood(
        [make_request("loglikelihood", *pair) for pair in pairs], disable_tqdm=True
    )
    told, own = subject.logprobs(pairs, truncate=True), subject.logprobs(pairs)
    for got, (total, greedy) in zip([*told, *own[:-2]], [*expected, *expected[:-2]], strict=True):
        assert got.total == pytest.approx(total, abs=1e-3)
        assert got.greedy == greedy
    assert [(one.tokens, two.tokens) for one, two in zip(told[-2:], own[-2:], strict=True)] == [(5, 4), (5, 4)]


def test_greedy_is_what_greedy_decoding_writes(subject: Any) -> None:
    """The model's own answer is greedy, another is not."""
    prompt = "Once upon a time"
    ids = subject.tokens.encode_prompts([prompt])[0]
    with torch.inference_mode():
        own = subject.model.generate(torch.tensor([ids]), max_new_tokens=4, do_sample=False)[0, len(ids) :].tolist()
    scored = dict(subject.scorer.score([(ids, own), (ids, [*own[:-1], own[-1] ^ 1])]))
    assert [scored[i].greedy for i in range(2)] == [True, False]


def test_a_token_across_the_boundary_is_encoded_apart() -> None:
    """The tokens spell prompt and continuation, whatever melts; lm_eval's form counts off the prompt's tokens."""
    from tokenizers import Tokenizer, models

    from harness_hf.tokens import ModelTokenizer

    vocabulary = {"<s>": 0, "a": 1, "b": 2, "c": 3, "ab": 4, " ": 5}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")]))
    tokens = ModelTokenizer(transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>"))
    pairs = [("ca", "bc"), ("a", "b"), ("c ", "b"), ("c", "ab")]
    assert tokens.encode_pairs(pairs) == [([3, 1], [2, 3]), ([1], [2]), ([3, 5], [2]), ([3], [4])]
    assert [answer.alone for _, answer in tokens.split_pairs(pairs)] == [True, True, False, False]
    assert tokens.encode_pairs(pairs, as_lm_eval=True) == [([3, 1], [3]), ([1], [2]), ([3], [5, 2]), ([3], [4])]


def test_bos_is_never_doubled(subject: Any) -> None:
    """Text gets one BOS, text that brings one no second, a chat the template's."""
    bos = subject.tokens.tokenizer.bos_token_id
    prompts = ["plain", "<s>brings its own", [{"role": "user", "content": "hi"}]]
    for ids in subject.tokens.encode_prompts(prompts):
        assert ids.count(bos) == 1
        assert ids[0] == bos


def test_messages_are_the_template_as_text(subject: Any) -> None:
    """Messages and the text the template makes of them are the same tokens."""
    messages = [{"role": "user", "content": "hi"}]
    chat, text = subject.tokens.encode_prompts([messages, subject.tokens.render(messages)])
    assert chat == text


def test_messages_without_a_template_are_refused(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer without a chat template cannot take messages."""
    monkeypatch.setattr(subject.tokens.tokenizer, "chat_template", None)
    with pytest.raises(UsageError, match="has no chat template"):
        subject.logprobs([([{"role": "user", "content": "hi"}], "yes")])


@pytest.mark.parametrize(
    ("pair", "says"), [(("x" * 510, " too long"), "has 520 tokens, but the context is 512"), (("a", ""), "empty")]
)
def test_what_cannot_be_scored_is_refused(subject: Any, pair: tuple[str, str], says: str) -> None:
    """A row longer than the context, or an empty continuation, is never a number."""
    with pytest.raises(UsageError, match=says):
        subject.logprobs([pair])


def test_memory_running_out_halves_the_budget(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that do not fit are cut smaller, and nothing scored is lost or counted twice."""
    pairs, forward = make_few_shot_pairs(), subject.scorer._forward
    expected = [p.total for p in subject.logprobs(pairs)]
    monkeypatch.setattr(subject.scorer, "budget", 200)
    calls = []

    def small(tokens: list[int], *rest: Any) -> Any:
        calls.append(len(tokens))
        if len(tokens) > 60:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried ...")
        return forward(tokens, *rest)

    monkeypatch.setattr(subject.scorer, "_forward", small)
    subject.scorer.forget()
    assert [p.total for p in subject.logprobs(pairs)] == pytest.approx(expected, abs=1e-3)
    assert subject.scorer.budget == 50
    assert max(calls) > 60


def test_what_is_kept_of_earlier_requests_changes_no_bit(tiny_model: Path) -> None:
    """What a second piece keeps of a prefix, whole steps of it, has the bits of a scorer that was asked nothing."""
    examples = "".join(f"Question {i}: what is it? Answer: {i * 7 % 11}.\n" for i in range(12))
    first, second = ([(f"{examples}{word} {i} is", f" {i} of it") for i in range(30)] for word in ("Anna", "Bert"))
    with harness_hf.load([ModelRef("base", str(tiny_model))], dtype="bfloat16", batch_tokens=128) as [subject]:
        kept = subject.logprobs(first)
        subject.forget()
        assert subject.scorer.whole >= 3 * subject.scorer.step
        run = subject.scorer.run
        kept += subject.logprobs(second)
        again = subject.scorer.run - run
    with harness_hf.load([ModelRef("base", str(tiny_model))], dtype="bfloat16", batch_tokens=128) as [subject]:
        alone = subject.logprobs(second)
        assert subject.scorer.run - again >= 3 * subject.scorer.step
        subject.forget()
        alone = subject.logprobs(first) + alone
    assert kept == alone


def test_a_wrong_fast_path_is_noticed(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """When sharing is not valid for a model, it is given up, and told; found out later, the call fails."""
    monkeypatch.setattr(
        subject.scorer, "_make_prefix_tree_mask", lambda row: None
    )  # every token then sees its neighbours' too
    assert_parity(subject, make_few_shot_pairs())
    assert "a continuation has log-probability" in subject.notes[0] and "with shared prefixes, but" in subject.notes[0]
    subject.scorer.packs, subject.scorer.run = True, 10**6  # enough of them that some are checked
    with pytest.raises(RuntimeError, match="set reference = true"):
        subject.logprobs(make_few_shot_pairs())


def test_nan_weights_give_nan(subject: Any) -> None:
    """A broken model has no log-probabilities, and nothing of it is greedy."""
    with torch.no_grad():
        subject.model.lm_head.weight[5] = math.nan
    scored = subject.logprobs(make_few_shot_pairs(2))
    assert all(math.isnan(p.total) and not p.greedy for p in scored)


def make_unpackable_model(kind: str, vocabulary: int) -> Any:
    """Make a tiny random model of a family that must not be packed."""
    small = {"vocab_size": vocabulary, "hidden_size": 32, "num_hidden_layers": 2, "bos_token_id": 1, "eos_token_id": 2}
    attention = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32}
    torch.manual_seed(0)
    if kind == "sliding":
        config = transformers.MistralConfig(**small, **attention, sliding_window=8, max_position_embeddings=512)
        return transformers.MistralForCausalLM(config)
    if kind == "mamba":
        return transformers.MambaForCausalLM(transformers.MambaConfig(**small, state_size=4))
    config = transformers.GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=2, n_positions=512)
    return transformers.GPT2LMHeadModel(config)


@pytest.mark.parametrize("kind", ["sliding", "mamba", "gpt2"])
def test_other_architectures_are_scored_plainly(kind: str, tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Sliding windows, state spaces and absolute positions are not packed, and score as each pair by itself."""
    from harness_hf.models import load_tokenizer, quiet_loading

    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    tokenizer = load_tokenizer(tiny_model)
    with quiet_loading():
        make_unpackable_model(kind, len(tokenizer)).save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
    with harness_hf.load([ModelRef("base", str(tmp_path / "model"))], dtype="float32") as (subject,):
        assert not subject.scorer.packs
        assert "prefixes are not shared, so each row is computed separately: it" in subject.notes[0]
        assert_parity(subject, make_few_shot_pairs(2))
        prompts = ["Hello there", "Once", "One and two and"]
        assert subject.generate(prompts, max_new_tokens=5) == [
            subject.generate([p], max_new_tokens=5)[0] for p in prompts
        ]
        assert subject.token_kl(["abc"], subject) == [(pytest.approx(0.0, abs=1e-6), 3)]


def test_token_kl_is_the_definition(subject: Any, tiny_model: Path, tmp_path: Path) -> None:
    """KL(against ‖ self) summed over a text's tokens is what its definition gives, long texts included."""
    from harness_hf.tiny import build_tiny_model

    other = build_tiny_model(tmp_path / "other", seed=1)
    with harness_hf.load([ModelRef("other", str(other))], dtype="float32") as (against,):
        found = subject.token_kl(TEXTS[:1] + TEXTS[3:], against)
        for text, (total, tokens) in zip(TEXTS[:1] + TEXTS[3:], found, strict=True):
            ((bos, ids),) = subject.tokens.encode_pairs([("", text)])
            inputs = torch.tensor([bos + ids[:-1]])
            with torch.inference_mode():
                p = against.model(inputs).logits[0].double().log_softmax(-1)
                q = subject.model(inputs).logits[0].double().log_softmax(-1)
            assert total == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-4)
            assert tokens == len(ids)
        (total, tokens), *_ = subject.token_kl([TEXTS[2]], against)
        assert tokens == len(TEXTS[2])
        assert total > 0
        assert subject.token_kl([TEXTS[2]], subject)[0][0] == pytest.approx(0.0, abs=1e-4)


FAMILIES = {  # full attention and rotary positions: what is to be packed
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {"head_dim": 16},
    "Gemma": {"head_dim": 16},
    "Mistral": {"sliding_window": None},
    "Phi": {"partial_rotary_factor": 0.5},
    "Phi3": {"pad_token_id": 0, "sliding_window": None},
    "GPTNeoX": {"rotary_pct": 0.5},
    "Olmo2": {},
    "StableLm": {},
    "Granite": {"logits_scaling": 2.0},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_rotary_families_are_packed(family: str, tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Every family of full-attention rotary decoders is packed, and scores and answers as each pair by itself."""
    from harness_hf.models import load_tokenizer, quiet_loading

    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    tokenizer = load_tokenizer(tiny_model)
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512}
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    config = getattr(transformers, f"{family}Config")(**sizes, **heads, **ends, **FAMILIES[family])
    torch.manual_seed(0)
    with quiet_loading():
        getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
    with harness_hf.load([ModelRef("base", str(tmp_path / "model"))], dtype="float32", batch_tokens=90) as (subject,):
        assert subject.scorer.packs
        assert_parity(subject, make_few_shot_pairs(3))
        assert subject.scorer.packs
        prompts = ["Hello there", "Once", "One and two and"]
        alone = [subject.generate([p], max_new_tokens=5)[0] for p in prompts]
        assert subject.generate(prompts, max_new_tokens=5) == alone


def test_a_long_prompt_loses_its_beginning_when_told_to(subject: Any) -> None:
    """What does not fit is cut from the left, to the last token that fits, as lm_eval does."""
    long, text = "x" * 300 + "y" * 300, " end"
    [cut] = subject.logprobs([(long, text)], truncate=True)
    [(context, target)] = subject.tokens.encode_pairs([(long, text)])
    by_itself = dict(subject.scorer.score([(context[len(context) + len(target) - 513 :], target)]))
    assert cut.total == pytest.approx(by_itself[0].total, abs=1e-4)
    with pytest.raises(UsageError, match="the context is 512"):
        subject.logprobs([("a", "z" * 600)], truncate=True)


def test_scores_come_as_they_are_done(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is killed half way has given what it had: the stream yields rows before later rows are run."""
    monkeypatch.setattr(subject.scorer, "budget", 64)
    pairs = make_few_shot_pairs()
    stream = subject.stream_logprobs(pairs)
    next(stream)
    early = subject.scorer.run
    rest = dict(stream)
    assert len(rest) == len(pairs) - 1
    assert early < subject.scorer.run - 64


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("before", [0, 70])
def test_attention_by_tiles(masked: bool, before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows with a prefix, with a mask of their own or causal, in tiles that do not divide them: as PyTorch's own."""
    from harness_hf.cpu import attention

    if not attention.is_onednn_available():
        pytest.skip("no oneDNN for float32 here")
    monkeypatch.setattr(attention, "TILE_SCORES", 40 * 130)
    torch.manual_seed(2)
    heads, groups, length, size = 6, 2, 61, 16
    query = torch.randn(1, heads, length, size)
    key, value = (torch.randn(1, groups, before + length, size) for _ in range(2))
    seen = torch.ones(length, before + length, dtype=torch.bool).tril(before)
    if masked:
        seen[40:, before + 5 : before + 30] = False
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
    module = types.SimpleNamespace(num_key_value_groups=heads // groups, is_causal=True)
    with attention.use_tiled_attention():
        attend = attention.ALL_ATTENTION_FUNCTIONS["sdpa"]
        assert attend is not attention.sdpa_attention_forward
        ours, _ = attend(module, query, key, value, mask if masked else None, scaling=0.3)
    assert attention.ALL_ATTENTION_FUNCTIONS["sdpa"] is attention.sdpa_attention_forward
    theirs, _ = attention.sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_attention_by_tiles_is_tried(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it does not give what a plain forward gives, PyTorch's own attention takes its place, not whole rows."""
    from harness_hf.cpu import attention

    pairs = [(f"{'examples ' * 9}{i} is", f" what {i} is") for i in range(12)]
    right = subject.logprobs(pairs)
    scorer = subject.scorer
    if not scorer.tiles:
        pytest.skip("no oneDNN for float32 here")
    scorer.probed = False
    scorer.forget()
    tiles = attention._attend_by_tiles
    monkeypatch.setattr(attention, "_attend_by_tiles", lambda *a: tiles(*a) * 1.1)
    assert [found.total for found in subject.logprobs(pairs)] == pytest.approx([r.total for r in right], abs=1e-4)
    assert not scorer.tiles
    assert scorer.packs
