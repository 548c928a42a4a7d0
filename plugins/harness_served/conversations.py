"""What a runtime is asked: conversations made so that each known fault of a template moves their tokens."""

from __future__ import annotations

from typing import Any

from harness.internals import chat

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "The weather in a city", "parameters": CITY}
PROSE = (
    "The committee met on Tuesday to discuss the budget for the coming year, and most members agreed that the roof of "
    "the old library could not wait any longer. It's 1,234.50 euros for the slates alone; Größe und 東京 stood in the "
    "minutes, nobody knew why.\n\n"
)
ENDED = (  # questions and whole answers, after which a model should have nothing more to say
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


def make_conversations(special: str, longer: str = "") -> list[list[dict[str, Any]]]:
    """Return the eight conversations; `special` is a special token's text, `longer` makes the last one longer."""
    return [
        [user_message("What is the capital of France?")],
        [{"role": "system", "content": "Answer in one sentence."}, user_message("Why is the sky blue?")],
        [{"role": "system", "content": ""}, user_message("Name three fruits.")],
        [user_message("  \n Which month comes after March?  \n")],
        [
            user_message("What are roofs made of?"),
            {"role": "assistant", "content": "Slate."},
            user_message("And walls?"),
        ],
        chat.join_arguments(
            [user_message("What is the weather in Paris?")], {chat.TOOLS: [{"type": "function", "function": WEATHER}]}
        ),
        [user_message(f"What does {special} mean in this text?")],
        [user_message(f"{longer or 8 * PROSE}Sum this up in a few words.")],
    ]
