"""Keys and values that are hidden in a haystack, disjoint over the splits."""

import uuid
from functools import cache
from typing import Literal

import numpy as np
from wonderwords import RandomWord

from experiments.tasks.sample import Split, held_in

ValueKind = Literal["number", "word", "uuid"]
# Upper bounds for one value in any tokenizer that spends at most a token a character on it.
VALUE_TOKENS: dict[ValueKind, int] = {"number": 9, "word": 28, "uuid": 37}


@cache
def words() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Adjectives and nouns of at most 12 lower-case letters."""

    def listed(category: str) -> tuple[str, ...]:
        found = RandomWord().filter(include_categories=[category])
        return tuple(sorted(word for word in found if word.isascii() and word.isalpha() and word.islower()))

    def short(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(word for word in names if len(word) <= 12)

    return short(listed("adjective")), short(listed("noun"))


def draw_keys(rng: np.random.Generator, split: Split, count: int) -> list[str]:
    """`count` different adjective-noun pairs that belong to `split`."""
    adjectives, nouns = words()
    keys: list[str] = []
    while len(keys) < count:
        key = f"{adjectives[rng.integers(len(adjectives))]}-{nouns[rng.integers(len(nouns))]}"
        if key not in keys and held_in(key, split):
            keys.append(key)
    return keys


def draw_value(rng: np.random.Generator, split: Split, kind: ValueKind) -> str:
    """A seven-digit number, an adjective-noun pair of the split or a random (version 4) UUID."""
    if kind == "number":
        return str(rng.integers(1_000_000, 10_000_000))
    if kind == "word":
        return draw_keys(rng, split, 1)[0]
    return str(uuid.UUID(bytes=rng.bytes(16), version=4))


def listing(items: list[str]) -> str:
    """`a`, `a and b`, `a, b, and c`."""
    if len(items) < 3:
        return " and ".join(items)
    return ", ".join(items[:-1]) + ", and " + items[-1]
