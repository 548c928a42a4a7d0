"""Test conversations for a runtime.

Each known fault of a template moves their tokens. Each has a number of its own that a seed draws, so that no cache has
an answer to it.
"""

from __future__ import annotations

import random
from typing import Any

from harness.internals import chat

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "The weather in a city", "parameters": CITY}
PROSE = (
    "The committee met on Tuesday to discuss the budget for the coming year, and most members agreed that the roof of "
    "the old library could not wait any longer. It's 1,234.50 euros for the slates alone; Größe und 東京 stood in the "
    "minutes, nobody knew why.\n\n"
)
PROSE_REPEATS = 14  # times PROSE: more than 3,000 characters, from which some gateways treat a prompt otherwise
QUESTIONS_AND_ANSWERS = (  # questions and whole answers, after which a model should have nothing more to say
    *(("What is the capital of France?", "The capital of France is Paris."), ("Say hello.", "Hello!")),
    *(("What is 2 + 2?", "2 + 2 equals 4."), ("Is water wet? Answer yes or no.", "Yes.")),
    *(("What colour is the sky?", "The sky is blue."), ("Thank you!", "You're welcome!")),
    *(("Name one fruit.", "Apple."), ("Who wrote Hamlet?", "William Shakespeare wrote Hamlet.")),
    *(("How are you?", "I'm doing well, thank you for asking!"), ("Translate 'cat' to French.", "Chat.")),
    *(("What is H2O?", "H2O is the chemical formula for water."), ("Good night.", "Good night!")),
)


def user_message(text: str) -> dict[str, str]:
    """Return a user's message."""
    return {"role": "user", "content": text}


class Nonces:
    """Random reference numbers from a seed.

    They have enough digits that a filter for personal data masks them, too.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 -- no secret

    def number(self, text: str) -> str:
        """Put a reference number in front of a text."""
        return f"Ref. {self._random.randrange(10**8, 10**9)}. {text}"


def make_conversations(special: str, long: int = PROSE_REPEATS, seed: int = 0) -> list[list[dict[str, Any]]]:
    """Return the eight test conversations.

    `special` is a special token's text, `long` how often the last one repeats the prose.
    """
    number = Nonces(seed).number
    return [
        [user_message(number("What is the capital of France?"))],
        [{"role": "system", "content": number("Answer in one sentence.")}, user_message("Why is the sky blue?")],
        [{"role": "system", "content": ""}, user_message(number("Name three fruits."))],
        [user_message(f"  \n {number('Which month comes after March?')}  \n")],
        [
            user_message(number("What are roofs made of?")),
            {"role": "assistant", "content": "Slate."},
            user_message("And walls?"),
        ],
        chat.join_arguments(
            [user_message(number("What is the weather in Paris?"))],
            {chat.TOOLS: [{"type": "function", "function": WEATHER}]},
        ),
        [user_message(number(f"What does {special} mean in this text, which anna.berg@example.org sent?"))],
        [user_message(number(f"{long * PROSE}Sum this up in a few words."))],
    ]


def make_turns(seed: int) -> list[tuple[list[dict[str, str]], str]]:
    """Return questions and whole answers."""
    nonces = Nonces(seed + 1)
    return [([user_message(nonces.number(question))], answer) for question, answer in QUESTIONS_AND_ANSWERS]
