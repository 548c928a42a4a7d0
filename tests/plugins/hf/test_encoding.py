"""One row, one encoding: what is scored is what is trained on, behind the prompt that generation opens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import harness_hf
from harness import Sample
from harness.data import chat
from harness.data.encoding import shared_length
from harness.data.fewshot import prepend_examples
from harness.data.rows import target_as_continuation
from harness.records.models import ModelRef
from harness.testing import Project
from tests.helpers import tokenizers_made
from tests.helpers.late import import_late

pytestmark = pytest.mark.slow
torch = import_late("torch")

START = "{% if bos_token %}{{ bos_token }}{% endif %}{% for m in messages %}"
CHATML = (
    START + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ZEPHYR = (  # marks of turns are no special tokens, and a line break stands before an answer
    START
    + "<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
MISTRAL = (
    START + "{% if m.role == 'assistant' %} {{ m.content }}</s>{% else %}[INST] {{ m.content }} [/INST]{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} {% endif %}"
)
BARE = (
    START + "{% if m.role == 'assistant' %}{{ m.content }}</s>{% else %}[INST]{{ m.content }}[/INST]{% endif %}"
    "{% endfor %}"
)
TEMPLATES = {"ChatML": CHATML, "Zephyr": ZEPHYR, "Mistral": MISTRAL, "bare": BARE}
WORDS = st.sampled_from(["Why", "is", "the", "sky", "blue?", "green", "yes", "12", "room", "?", ".", "isn't", "Grün"])
ENDS = st.sampled_from(["?\n", "\n", ": ", ":", "?\n\n", " ", "", "\nAnswer:", " \n"])
PROMPTS = st.builds(lambda words, end: " ".join(words) + end, st.lists(WORDS, min_size=1, max_size=5), ENDS)
ANSWERS = st.builds(
    lambda start, words, end: start + " ".join(words) + end,
    st.sampled_from(["", "", " ", "\n", "\n\n"]),
    st.lists(WORDS, min_size=1, max_size=3),
    st.sampled_from(["", ".", "\n"]),
)
KINDS = [(kind, bos) for kind in tokenizers_made.KINDS for bos in (True, False)]
KINDS += [(kind, True) for kind in tokenizers_made.REAL]
EXAMPLES = st.lists(st.builds(lambda p, a: Sample("e", p, a), PROMPTS, ANSWERS), max_size=2)


def make_encoder(kind: str, bos: bool, template: str = CHATML) -> Any:
    if kind in tokenizers_made.REAL and tokenizers_made.find_vocabulary(kind) is None:
        pytest.skip("mistral-common is not installed")
    tokenizer = tokenizers_made.make_tokenizer(kind, bos)
    tokenizer.chat_template = template
    return harness_hf.RowEncoder(harness_hf.ModelTokenizer(tokenizer))


def make_user_message(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def make_assistant_message(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def assert_one_encoding(encoder: Any, prompt: Any, answer: str, rows: list[dict[str, Any]]) -> None:
    """The prompt that generation opens begins the row, and what is scored behind it is learnt in every form of it."""
    tokens = encoder.tokens
    [opened], [(context, target)] = tokens.encode_prompts([prompt]), tokens.encode_pairs([(prompt, answer)])
    assert context == (opened or [tokens.prefix_id])
    if not target:  # a tokenizer to which the answer is nothing
        return
    for row in rows:
        encoded = encoder.encode(row)
        assert encoded.ids[: len(opened)] == opened
        assert encoded.ids[len(opened) :][: len(target)] == target
        if "messages" not in row:
            assert encoded.learnt == [i >= len(opened) for i in range(len(encoded.ids))]
            assert encoded.labels[len(opened) :] == encoded.answer
    if "completion" in rows[0]:
        first = rows[0]
        pair = encoder.encode_answers(
            first["prompt"], [first["completion"]] * 2, chat.training_template_arguments(first)
        )
        assert [one.ids for one in pair] == [encoder.encode(first).ids] * 2


@pytest.mark.parametrize(("kind", "bos"), KINDS)
@settings(max_examples=60, deadline=None)
@given(prompt=PROMPTS, answer=ANSWERS, examples=EXAMPLES)
def test_texts_are_scored_on_what_is_trained(
    kind: str, bos: bool, prompt: str, answer: str, examples: list[Sample]
) -> None:
    """Of a text prompt, with worked examples in front or without, every tokenizer scores the tokens of the training."""
    encoder = make_encoder(kind, bos)
    for asked in (prompt, prepend_examples(prompt, examples)):
        joined = target_as_continuation(asked, answer)
        assert_one_encoding(encoder, asked, joined, [{"prompt": asked, "completion": joined}])


@pytest.mark.parametrize(("kind", "bos"), KINDS)
@settings(max_examples=60, deadline=None)
@given(template=st.sampled_from([*TEMPLATES]), prompt=PROMPTS, answer=ANSWERS, examples=EXAMPLES)
def test_messages_are_scored_on_what_is_trained(
    kind: str, bos: bool, template: str, prompt: str, answer: str, examples: list[Sample]
) -> None:
    """After messages, under templates that write a space or a line break before an answer or nothing, likewise."""
    encoder = make_encoder(kind, bos, TEMPLATES[template])
    turns: Any = prepend_examples([make_user_message(prompt)], examples)
    split = {"prompt": turns, "completion": [make_assistant_message(answer)]}
    assert_one_encoding(encoder, turns, answer, [split, {"messages": [*turns, make_assistant_message(answer)]}])


@pytest.mark.parametrize(("kind", "bos"), KINDS)
@settings(max_examples=30, deadline=None)
@given(text=PROMPTS)
def test_whole_texts_are_scored_on_what_is_trained(kind: str, bos: bool, text: str) -> None:
    """A text without a prompt begins with at most one BOS, brought or put there, and ends in one EOS."""
    encoder = make_encoder(kind, bos)
    for brought in (text, f"<s>{text}", f"{text}</s>"):
        [(context, target)] = encoder.tokens.encode_pairs([("", brought)])
        front = encoder.tokens.leading_ids
        encoded, end = encoder.encode({"text": brought}), encoder.tokens.tokenizer.eos_token_id
        trained = encoded.ids if encoded.ids[: len(context)] == context else [*context, *encoded.ids]
        assert trained[: len(context) + len(target)] == context + target
        assert encoded.ids[-1] == end and encoded.ids[:2] != front * 2
        assert all(encoded.learnt)


def test_the_answer_after_messages_is_not_begun_anew() -> None:
    """On tokenizers that put a space before a text "green" is scored as it is trained, and not as "▁green"."""
    for kind in ("metaspace", "dummy prefix"):
        encoder = make_encoder(kind, True, ZEPHYR)
        [(_, target)] = encoder.tokens.encode_pairs([([make_user_message("What colour has grass?")], "green")])
        names = encoder.tokens.tokenizer.convert_ids_to_tokens(target)
        assert "".join(names) == "green"
        assert encoder.tokens.encode_plain("green") != target


def test_a_line_break_that_ends_a_prompt_stays_there() -> None:
    """Where "?\\n" is one token it is the prompt's, as in training; lm_eval's rule is another, and asked for."""
    encoder = make_encoder("byte BPE", False)
    tokens, pair = encoder.tokens, ("Why is the sky blue?\n", "yes")
    [(context, target)] = tokens.encode_pairs([pair])
    convert = tokens.tokenizer.convert_ids_to_tokens
    assert (convert(context)[-1], "".join(convert(target))) == ("?Ċ", "yes")
    [(context, target)] = tokens.encode_pairs([pair], as_lm_eval=True)
    assert convert(context)[-1] == "?"  # which stands there in no training and in no generation


def test_a_token_that_spans_the_end_of_a_prompt_is_told() -> None:
    """The answer is then encoded by itself, in training as in scoring, and the row says so."""
    encoder = make_encoder("byte BPE", True)
    for prompt, answer, alone in (("In ", "room", True), ("Which?\n", "room", False)):
        [(_, split)] = encoder.tokens.split_pairs([(prompt, answer)])
        assert (split.alone, encoder.encode({"prompt": prompt, "completion": answer}).alone) == (alone, alone)


def test_a_shared_prompt_is_encoded_once() -> None:
    """Choices of one prompt have one context, so that its prefix is computed once."""
    encoder, calls = make_encoder("metaspace", True), []
    render = encoder.tokens.render
    encoder.tokens.render = lambda *a, **k: calls.append(a) or render(*a, **k)
    pairs = encoder.tokens.encode_pairs(
        [([make_user_message("Which colour?")], text) for text in ("green", "greenish", "blue")]
    )
    assert len(calls) == 1 and len({tuple(context) for context, _ in pairs}) == 1


@pytest.mark.parametrize(("kind", "bos"), KINDS)
@settings(max_examples=15, deadline=None)
@given(template=st.sampled_from([*TEMPLATES]), texts=st.lists(st.tuples(PROMPTS, ANSWERS), min_size=2, max_size=5))
def test_masks_of_long_conversations_are_those_of_their_prefixes(
    kind: str, bos: bool, template: str, texts: list[tuple[str, str]]
) -> None:
    """Parts between special tokens, each encoded once, give every turn the tokens that its whole prefix gives it."""
    encoder = make_encoder(kind, bos, TEMPLATES[template])
    turns = [turn for asked, reply in texts for turn in (make_user_message(asked), make_assistant_message(reply))]
    encoded, rendered = encoder.encode({"messages": turns}), encoder._render_turns(turns, {})
    places = [place for i in range(1, len(turns), 2) for place in rendered.find_answer(i)]
    prefixes = encoder.tokens.encode_texts([rendered.text[:place] for place in places], [True] * len(places))
    expected = [shared_length(ids, encoded.ids) for ids in prefixes]
    assert encoder._count_tokens_before(encoded.ids, rendered, places) == expected


def test_long_conversations_are_encoded_in_linear_time() -> None:
    """Twice the turns are twice the characters to encode, since no prefix is encoded again."""
    encoder, sizes = make_encoder("byte BPE", True), dict[int, int]()
    tokenize = encoder.tokens._tokenize_texts
    for turns in (50, 100):
        texts: list[str] = []
        encoder.tokens._tokenize_texts = lambda some, *, special, to=texts: (
            to.extend(some) or tokenize(some, special=special)
        )
        encoder.encode({"messages": [make_user_message("Why?"), make_assistant_message("So.")] * (turns // 2)})
        sizes[turns] = sum(map(len, texts))
    assert sizes[100] < 2.2 * sizes[50]


# -- against plain forwards --------------------------------------------------------------------------------------------

CLASSES = ("LlamaForCausalLM", "Qwen3ForCausalLM", "Gemma3ForCausalLM", "GPTNeoXForCausalLM", "MambaForCausalLM")
ROWS: list[dict[str, Any]] = [
    {"prompt": "Why is the sky blue?\n", "completion": "yes"},
    {"prompt": "Which room? ", "completion": "Room 10.\n"},
    {
        "prompt": [make_user_message("Why?"), make_assistant_message("So."), make_user_message("Which?")],
        "completion": [make_assistant_message("green and blue")],
    },
    {"prompt": [make_user_message("Which room?\n")], "completion": [make_assistant_message(" Room")]},
]


@pytest.fixture(scope="module", params=CLASSES)
def subject(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Load a tiny random model of an architecture in float32."""
    from bench import architectures

    folder: Path = tmp_path_factory.mktemp("model") / request.param
    architectures.build(request.param, folder)
    with harness_hf.load([ModelRef("base", str(folder))], dtype="float32", device="cpu") as (loaded,):
        yield loaded


def test_scores_are_those_of_the_trained_tokens(subject: Any) -> None:
    """A score is what a plain forward of the row that is trained on gives the tokens of the answer, to 1e-6 a nat."""
    encoder = harness_hf.RowEncoder(subject.tokens)
    texts = [
        row["completion"] if isinstance(row["completion"], str) else row["completion"][0]["content"] for row in ROWS
    ]
    scores = subject.logprobs([(row["prompt"], text) for row, text in zip(ROWS, texts, strict=True)])
    for row, score in zip(ROWS, scores, strict=True):
        encoded = encoder.encode(row)
        start = encoded.learnt.index(True)
        with torch.inference_mode():
            logits = subject.model(input_ids=torch.tensor([encoded.ids])).logits[0].float()
        after = logits[start - 1 : start - 1 + score.tokens].log_softmax(-1)
        told = after.gather(1, torch.tensor(encoded.ids[start : start + score.tokens])[:, None]).double()
        assert score.total == pytest.approx(float(told.sum()), rel=1e-6)


# -- a whole run -------------------------------------------------------------------------------------------------------

LEARNT = """
[suite]
name = "learnt"

[model]
use = "hf"
path = "base"
dtype = "float32"
device = "cpu"

[adapter]
use = "lora"
r = 8
lora_dropout = 0.0

[train]
use = "sft"
data = "train.jsonl"
learning_rate = 1e-2
max_steps = 100
max_length = 256
per_device_train_batch_size = 8
gradient_accumulation_steps = 1

[checks]
ignore = { D14 = "a random model wants a high rate" }

[[eval]]
name = "fit"
use = "perplexity"
of = "completion"
data = "test.jsonl"

[[eval]]
name = "choice"
use = "multiple_choice"
data = "test.jsonl"

[[gate]]
id = "learnt"
metric = "fit.perplexity"
allow_approximate = true
versus = "base"
better_by = 0.5
on = ["adapter"]
"""


def write_base(folder: Path, kind: str) -> None:
    """Write a random Llama with a tokenizer of a kind, and Zephyr's template."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_encoder(kind, True, ZEPHYR).tokens.tokenizer
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 512}
    config = LlamaConfig(vocab_size=len(tokenizer), num_attention_heads=4, initializer_range=0.1, **sizes,
                         bos_token_id=1, eos_token_id=2, pad_token_id=3)  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(("form", "kind"), [("messages", "metaspace"), ("text", "byte BPE")])
def test_what_was_learnt_is_measured(form: str, kind: str, project: Project) -> None:
    """A model that learnt its answers after messages, or after prompts that end in a line break, is told so.

    Its perplexity is that of its training loss, and its choices are those that it learnt.
    """
    write_base(project.folder / "base", kind)
    data = Path(__file__).parents[3] / "suites" / "data"
    rows = [json.loads(line) for line in (data / "colours-train.jsonl").read_text("utf-8").splitlines()]
    if form == "messages":
        rows = [
            {**r, "prompt": [make_user_message(r["prompt"])], "completion": [make_assistant_message(r["completion"])]}
            for r in rows
        ]
    asked = [{**r, "target": r["completion"] if form == "text" else r["completion"][0]["content"]} for r in rows]
    asked = [{("input" if k == "prompt" else k): v for k, v in r.items() if k != "completion"} for r in asked]
    project.write({"suite.toml": LEARNT, "train.jsonl": rows, "test.jsonl": asked})
    run = project.run("--ignore", "D10").report
    assert run is not None
    got = {(r.subject, name): value for r in run.results for name, value in r.metrics.items()}
    assert got["base", "perplexity"] > 50 and got["adapter", "perplexity"] < 10, got
    assert got["adapter", "acc"] > 0.7, got
