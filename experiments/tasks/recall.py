"""The pocket host's own task: look up one of several facts among look-alikes and filler, in a tiny language."""

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from transformers import PreTrainedTokenizerBase

from experiments.tasks.haystack import fill
from experiments.tasks.sample import Sample, Split, generator

HEADER = "Read."
ADJECTIVES = tuple("red blue green black white gold gray pink tiny huge fast slow warm cold wild tame".split())
NOUNS = tuple("fox cat dog owl bear wolf frog hawk crab deer duck goat lion mole seal toad".split())
FILLER = (
    tuple("the a one this some that".split()),
    tuple("rain wind river road hill house stone tree cloud light night morning garden bridge".split()),
    tuple("moves sleeps falls turns waits rests glows drifts".split()),
    tuple("over under near by past along".split()),
)


@cache
def filler() -> tuple[str, ...]:
    """Sentences that say nothing, in one fixed random order."""
    articles, things, verbs, places = FILLER
    every = [f"{a} {t} {v} {p} {b} {u}." for a, t, v, p, b, u in product(articles, things, verbs, places, "a", things)]
    order = np.random.default_rng(0).permutation(len(every))[:1000]
    return tuple(every[i] for i in order)


def fact(verb: str, key: str, value: str) -> str:
    """A line that is asked for (`set`) or the answer to a question (`get`)."""
    return f"{verb} {key} {value}."


def lookalike(key: str, value: str) -> str:
    """A line with a key and a number that nobody asks for."""
    return f"saw {key} near {value}."


def keys_of(split: Split, adjective: int) -> list[int]:
    """Nouns that make a key of the split with an adjective: held-out keys are new pairs of well-known words."""
    diagonals = {"train": range(4, 16), "validation": range(0, 2), "test": range(2, 4)}[split]
    return [(adjective + diagonal) % len(NOUNS) for diagonal in diagonals]


def draw_pairs(rng: np.random.Generator, split: Split, count: int) -> list[tuple[str, str]]:
    """`count` keys of the split with three-digit values; no two keys share a word (at most 12 held-out ones exist)."""
    pairs: dict[int, int] = {}
    while len(pairs) < count:
        pairs = {}
        for adjective in rng.permutation(len(ADJECTIVES)):
            if free := [noun for noun in keys_of(split, int(adjective)) if noun not in pairs.values()]:
                pairs[int(adjective)] = int(rng.choice(free))
    chosen = list(pairs.items())[:count]
    return [(f"{ADJECTIVES[a]} {NOUNS[n]}", str(rng.integers(100, 1000))) for a, n in chosen]


@dataclass(frozen=True)
class Recall:
    """One fact in 64 tokens, between two and eight, half as many look-alikes; one fact is asked, all equally often."""

    name: str = "pocket-recall"

    def make(self, tokenizer: PreTrainedTokenizerBase, length: int, split: Split, index: int) -> Sample:
        """Sample `index` of `split`; ValueError if `length` cannot hold facts and question."""
        rng = generator(self.name, length, split, index)
        facts = min(8, max(2, length // 64))
        pairs = draw_pairs(rng, split, facts + facts // 2)
        asked, value = pairs[int(rng.integers(facts))]
        lines = [fact("set", *pair) for pair in pairs[:facts]] + [lookalike(*pair) for pair in pairs[facts:]]

        def build(text: str) -> Sample:
            return Sample(
                task=self.name,
                context=f"{HEADER} {text}",
                question=f" get {asked}",
                prefix="",
                answers=(value,),
                target=value,
                metric="contains_all",
                max_new_tokens=4,
            )

        return fill(tokenizer, length, rng, filler(), lines, build)
