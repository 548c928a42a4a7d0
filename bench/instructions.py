"""The instructions of general-v1: requests by kind, and what of each the rule that sees to it must know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Values = tuple[Any, ...]


@dataclass(frozen=True)
class Kind:
    """Requests of one form: `text` with the values of each, and the arguments of `rule` that follow from them.

    `shown` is one of the same form with its answer, an earlier turn: without it small models do not see what is meant.
    """

    name: str
    rule: str
    text: str
    values: Sequence[Values]
    arguments: Callable[..., Mapping[str, Any]] = lambda *_: {}
    shown: tuple[Values, str] | None = None

    def messages(self, values: Values) -> list[dict[str, str]]:
        """Return the request as chat messages, after the one that is shown."""
        asked = {"role": "user", "content": self.text.format(*values)}
        if self.shown is None:
            return [asked]
        example, answer = self.shown
        shown = {"role": "user", "content": self.text.format(*example)}
        return [shown, {"role": "assistant", "content": answer}, asked]


def parse_single_values(text: str) -> list[Values]:
    """Return the values of requests that have one each, which stand between bars."""
    return [(value.strip(),) for value in text.split("|")]


def parse_value_tuples(text: str) -> list[Values]:
    """Return the values of requests that have several each, between slashes."""
    return [tuple(value.strip() for value in one.split("/")) for one in text.split("|")]


THINGS = parse_single_values(
    "rivers | bread | the moon | trains | winter | music | bees | libraries | the sea | apples | bicycles | rain"
    " | mountains | clocks | coffee | birds | gardens | maps | fire | islands"
)
LISTS: list[Values] = [
    (int(count), name)
    for name, count in parse_value_tuples(
        "colors / 3 | animals / 3 | fruits / 4 | months / 3 | tools / 2 | vegetables / 5 | sports / 3 | metals / 2"
        " | musical instruments / 3 | countries / 4"
    )
]
BEGINNINGS = parse_single_values("Yesterday|Although|Many|Sometimes|Because|Nobody|Every|Perhaps|When|Long")
ENDINGS = parse_single_values("The end.|Thank you.|That is all.|Goodbye.|Is that clear?|Done.|Good luck!|See you soon.")
MOST_WORDS = (20, 15, 12, 10, 25, 18, 14, 8, 20, 15)
KINDS = [
    Kind(
        "lower",
        "lower",
        "Write one short sentence about {}. Use only lowercase letters.",
        THINGS[:8],
        shown=(("snow",), "snow falls softly in winter."),
    ),
    Kind(
        "upper",
        "upper",
        "Write one short sentence about {}. Write it in capital letters.",
        THINGS[8:16],
        shown=(("snow",), "SNOW FALLS SOFTLY IN WINTER."),
    ),
    Kind(
        "bullets",
        "bullets",
        'List {} {} as bullet points. Begin each line with "- ".',
        LISTS,
        lambda count, _: {"count": count},
        ((2, "drinks"), "- tea\n- milk"),
    ),
    Kind(
        "numbered",
        "numbered",
        "Write a numbered list of {} {}.",
        [(count + 2, name) for count, name in LISTS],
        lambda count, _: {"count": count},
    ),
    Kind(
        "keys",
        "keys",
        'Write a JSON object about {} with the keys "{}" and "{}". Write only the JSON.',
        parse_value_tuples(
            "a dog/name/age | a book/title/author | a city/name/country | a car/brand/color | a person/name/job"
            " | a song/title/artist | a meal/dish/price | a tree/name/height | a film/title/year | a ship/name/length"
        ),
        lambda _, one, other: {"names": [one, other]},
        (("a cat", "name", "color"), '{"name": "Milo", "color": "grey"}'),
    ),
    Kind(
        "json",
        "equals",
        "Write this as a JSON object: {} is {}, {} is {}. Write only the JSON.",
        parse_value_tuples(
            "name/Anna/city/Rome | color/red/shape/round | day/Monday/weather/sunny | fruit/apple/animal/cat"
            " | first/one/last/nine | brand/Acme/model/Swift | title/Dawn/author/Lee | from/Oslo/to/Bern"
            " | team/Blue/coach/Kim | door/green/window/open"
        ),
        lambda one, this, other, that: {"value": {one: this, other: that}},
        (("size", "big", "shape", "flat"), '{"size": "big", "shape": "flat"}'),
    ),
    Kind(
        "starts",
        "starts",
        'Write one sentence about {} that starts with the word "{}".',
        [(*thing, *word) for thing, word in zip(THINGS, BEGINNINGS, strict=False)],
        lambda _, word: {"word": word},
        (("snow", "Tonight"), "Tonight the snow falls softly on the town."),
    ),
    Kind(
        "ends",
        "ends",
        'Write one sentence about {}. Then end your answer with "{}"',
        [(*thing, *text) for thing, text in zip(THINGS, ENDINGS, strict=False)],
        lambda _, text: {"text": text},
        (("snow", "Good night."), "Snow falls softly on the town. Good night."),
    ),
    Kind(
        "words",
        "words",
        "Describe {} in at most {} words.",
        [(*thing, most) for thing, most in zip(THINGS, MOST_WORDS, strict=False)],
        lambda _, most: {"least": 2, "most": most},
        (("snow", 8), "Soft white ice that falls in winter."),
    ),
    Kind(
        "includes",
        "includes",
        'Write one sentence that contains the words "{}" and "{}".',
        parse_value_tuples(
            "river/bread|clock/garden|winter/train|moon/window|teacher/apple|island/letter|bicycle/rain|market/violin"
            "|candle/ship|forest/key"
        ),
        lambda one, other: {"texts": [one, other]},
    ),
    Kind(
        "yes-or-no",
        "one_of",
        "{} Answer with one word, yes or no.",
        parse_single_values(
            "Is ice cold?|Can fish fly?|Is the sun hot?|Do cats bark?|Is seven larger than two?|Is gold a metal?"
            "|Do birds have wings?|Is water dry?|Is Monday a month?|Are lemons sour?"
        ),
        lambda _: {"options": ["yes", "no"]},
    ),
    Kind(
        "repeat",
        "copies",
        "Repeat this sentence and write nothing else: {}",
        parse_single_values(
            "The train leaves at noon.|My brother has two dogs.|Snow fell all night.|She opened the old door."
            "|We drank cold water.|The shop is closed today.|He forgot his keys again.|Birds sing in the morning."
            "|The soup needs more salt.|They moved to the coast."
        ),
        lambda text: {"text": text},
    ),
    Kind(
        "items",
        "items",
        "Name {} {} on one line, separated by commas. Write nothing else.",
        LISTS,
        lambda count, _: {"count": count},
        ((3, "drinks"), "tea, milk, water"),
    ),
    Kind(
        "quoted",
        "quoted",
        "Write one sentence about {}. Put your whole answer between double quotation marks.",
        THINGS[8:16],
        shown=(("snow",), '"Snow covers the quiet fields in winter."'),
    ),
    Kind(
        "date",
        "copies",
        "Write this date as YYYY-MM-DD: {}. Write only the date.",
        parse_value_tuples(
            "5 March 2021/2021-03-05 | 12 July 1999/1999-07-12 | 1 January 2010/2010-01-01"
            " | 24 December 1987/1987-12-24 | 30 June 2005/2005-06-30 | 9 October 2018/2018-10-09"
            " | 17 May 1964/1964-05-17 | 3 August 2022/2022-08-03 | 21 February 1950/1950-02-21"
            " | 14 November 2001/2001-11-14"
        ),
        lambda _, text: {"text": text},
        (("8 April 2003", "2003-04-08"), "2003-04-08"),
    ),
    Kind(
        "one-word",
        "words",
        "{} Answer with one word.",
        parse_single_values(
            "What color is grass?|What is the opposite of hot?|What animal says meow?|What do bees make?"
            "|What is the first month of the year?|What color is snow?|What is the opposite of up?|What do cows drink?"
        ),
        lambda _: {"least": 1, "most": 1},
        (("What is the opposite of old?",), "New"),
    ),
    Kind(
        "shouted",
        "copies",
        'Write the word "{}" in capital letters. Write nothing else.',
        parse_single_values("garden|river|window|apple|silver|market|winter|bottle"),
        lambda word: {"text": word.upper()},
        (("table",), "TABLE"),
    ),
]
