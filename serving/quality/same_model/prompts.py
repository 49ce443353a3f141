"""Prompts for a calibration: everyday questions, put together from a list of forms and a list of subjects."""

from __future__ import annotations

import random

FORMS = (
    "Explain {} to a child.",
    "Write a short paragraph about {}.",
    "What are three facts about {}?",
    "Why do people care about {}?",
    "Give me a simple plan to learn about {}.",
    "Write a poem of four lines about {}.",
    "What is a common mistake about {}?",
    "Compare {} with something similar.",
    "Who should know about {}, and why?",
    "Summarise the history of {} in two sentences.",
    "List five words that go with {}.",
    "Tell a short story in which {} matters.",
)
SUBJECTS = (
    "gravity",
    "bread",
    "the ocean",
    "chess",
    "electricity",
    "bicycles",
    "volcanoes",
    "the violin",
    "photosynthesis",
    "glass",
    "bees",
    "the moon",
    "statistics",
    "rivers",
    "coffee",
    "sleep",
    "bridges",
    "maps",
    "winter",
    "computers",
    "democracy",
    "cheese",
    "football",
    "trains",
    "vaccines",
)


def draw_prompts(seed: int, count: int) -> list[str]:
    """``count`` prompts; none comes twice before all have come."""
    chance = random.Random(seed)
    every = [form.format(subject) for form in FORMS for subject in SUBJECTS]
    drawn: list[str] = []
    while len(drawn) < count:
        drawn += chance.sample(every, len(every))
    return drawn[:count]
