"""Text that hides needles, cut to a token budget."""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from importlib.resources import files
from typing import Literal

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from experiments.tasks.fitting import need
from experiments.tasks.sample import Sample, Split

Source = Literal["text", "noise"]
NOISE = (
    "The kettle sings on the stove.",
    "Rain falls on the roof.",
    "A cat sleeps by the door.",
    "The lamp is lit again.",
    "Out we go and home we come.",
)


@cache
def pieces(source: Source, split: Split) -> tuple[str, ...]:
    """Sentences of a haystack: the same noise for every split, disjoint chapters of the bundled text."""
    if source == "noise":
        return NOISE
    chapters = (files("experiments.tasks") / "texts" / "haystack.txt").read_text(encoding="ascii").split("\n\n")
    # Alternating chapters, so that every split holds prose and verse.
    owner: tuple[Split, ...] = ("train", "train", "train", "train", "validation", "test")
    mine = [chapter for number, chapter in enumerate(chapters) if owner[number % 6] == split]
    return tuple("\n".join(mine).split("\n"))


@lru_cache(maxsize=32)
def token_counts(tokenizer: PreTrainedTokenizerBase, sentences: tuple[str, ...]) -> Int[np.ndarray, " piece"]:
    """Tokens of every sentence with the space before it."""
    encoded = tokenizer([f" {sentence}" for sentence in sentences], add_special_tokens=False)["input_ids"]
    return np.array([len(ids) for ids in encoded])


def window(counts: Int[np.ndarray, " piece"], start: int, budget: int) -> Int[np.ndarray, " taken"]:
    """Indices of the longest run of pieces from `start` on, around the end, that has at most `budget` tokens."""
    order = (start + np.arange(len(counts))) % len(counts)
    cycles = budget // counts.sum()
    rest = np.searchsorted(np.cumsum(counts[order]), budget - cycles * counts.sum(), side="right")
    return np.concatenate([np.tile(order, cycles), order[:rest]])


def scatter(rng: np.random.Generator, sentences: Sequence[str], needles: Sequence[str]) -> str:
    """Insert the needles, in random order, between sentences at uniformly drawn places."""
    out = list(sentences)
    depths = np.sort(rng.integers(len(sentences) + 1, size=len(needles)))
    for depth, which in zip(depths[::-1], rng.permutation(len(needles)), strict=True):
        out.insert(int(depth), needles[int(which)])
    return " ".join(out)


def fill(
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    rng: np.random.Generator,
    sentences: tuple[str, ...],
    needles: Sequence[str],
    build: Callable[[str], Sample],
) -> Sample:
    """The sample with as many sentences around its needles as `length` allows.

    `build` turns the text into a sample. Raises ValueError where the needles alone do not fit.
    """
    bare = build(" ".join(needles))
    budget = length - need(tokenizer, bare)
    if budget < 0:
        raise ValueError(
            f"{bare.task}: length {length} is too short, its needles and question need {length - budget} tokens "
            "with this tokenizer (answer included); use a longer length"
        )
    taken = window(token_counts(tokenizer, sentences), int(rng.integers(len(sentences))), budget)
    places = rng.integers(2**63)
    while True:  # one pass, unless joined sentences have more tokens than single ones
        sample = build(scatter(np.random.default_rng(places), [sentences[i] for i in taken], needles))
        used = need(tokenizer, sample)
        if not len(taken) or used <= length:
            return sample
        taken = taken[: -max(1, (used - length) * len(taken) // used)]
