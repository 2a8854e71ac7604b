"""RULER's two aggregation tasks (arXiv 2404.06654, section 3.3): common words in a list, frequent coded words."""

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from transformers import PreTrainedTokenizerBase
from wonderwords import RandomWord

from experiments.tasks.fitting import largest
from experiments.tasks.ruler_shuffle import Shuffle, shuffle_name, shuffled
from experiments.tasks.sample import Sample, Split, generator, held_in

CWE, FWE = "ruler/cwe", "ruler/fwe"
SHORTEST = 1024  # tokens from which on RULER's own settings fit
COMMON = 10
QUESTION = "Question: Which 10 words appear most often in the list above?"
ZETA = math.pi**2 / 6  # zeta(2), the sum of all 1 / rank^2


def is_short(length: int) -> bool:
    """Whether a prompt is too short for worked examples and full generation lengths."""
    return length < SHORTEST


@cache
def vocabulary() -> tuple[str, ...]:
    """Adjectives, nouns and verbs of lower-case letters."""
    found = {word for kind in ("adjective", "noun", "verb") for word in RandomWord().filter(include_categories=[kind])}
    return tuple(sorted(word for word in found if word.isascii() and word.isalpha() and word.islower()))


@dataclass(frozen=True)
class CommonWords:
    """The ten words that a numbered list repeats most often; the splits ask for different words."""

    shuffle: Shuffle = "sample"

    @property
    def name(self) -> str:
        """`ruler/cwe`, with its shuffle."""
        return shuffle_name(CWE, self.shuffle)

    def make(self, tokenizer: PreTrainedTokenizerBase, length: int, split: Split, index: int) -> Sample:
        """Sample `index` of `split`; ValueError if `length` cannot hold the common words."""
        rng = generator(CWE, length, split, index)  # the same words in either order
        short = is_short(length)
        common, rare = draw_words(rng, split, length // 3)
        often, seldom = (30, 3) if length >= 4096 else (2, 1) if short else (6, 1)
        example = "" if short else self._example(rng, split, length)
        seed = int(rng.integers(2**63))

        def build(size: int) -> Sample:
            listed = self._numbered(common, rare[:size], often, seldom, np.random.default_rng(seed))
            instruction, question, prefix = _ask(listed)
            return Sample(
                task=self.name,
                context=example + instruction,
                question=question,
                prefix=prefix,
                answers=tuple(common),
                target=" ".join(common) if short else enumerated(common),
                metric="contains_all",
                max_new_tokens=60 if short else 120,
            )

        return largest(tokenizer, length, build, 0, len(rare))

    def _numbered(
        self, common: Sequence[str], rare: Sequence[str], often: int, seldom: int, rng: np.random.Generator
    ) -> str:
        """All repetitions of all words, shuffled and numbered."""
        words = [*common] * often + [*rare] * seldom
        return enumerated([words[i] for i in shuffled(len(words), self.shuffle, rng)])

    def _example(self, rng: np.random.Generator, split: Split, length: int) -> str:
        size, often, seldom = (40, 10, 3) if length >= 4096 else (20, 3, 1)
        common, rare = draw_words(rng, split, size - COMMON)
        instruction, question, prefix = _ask(self._numbered(common, rare, often, seldom, rng))
        return f"{instruction}{question}\n{prefix} {enumerated(common)}\n\n"


@dataclass(frozen=True)
class FrequentWords:
    """The three most frequent of coded words whose frequencies fall with the square of their rank.

    Rank 1 is dots, which do not count. Words are random, so that no two prompts share any.
    """

    shuffle: Shuffle = "sample"

    @property
    def name(self) -> str:
        """`ruler/fwe`, with its shuffle."""
        return shuffle_name(FWE, self.shuffle)

    def make(self, tokenizer: PreTrainedTokenizerBase, length: int, split: Split, index: int) -> Sample:
        """Sample `index` of `split`; ValueError if `length` cannot hold the three words."""
        rng = generator(FWE, length, split, index)  # the same words in either order
        size = max(4, (length - 50) // 50)
        letters = list(string.ascii_lowercase)
        words = ["....", *("".join(rng.choice(letters, 6)) for _ in range(size - 1))]
        seed = int(rng.integers(2**63))

        def build(total: int) -> Sample:
            coded = np.repeat(words, zipf_counts(total, size))
            text = " ".join(coded[shuffled(len(coded), self.shuffle, np.random.default_rng(seed))])
            return Sample(
                task=self.name,
                context=f"Read this coded text and count how often every coded word appears in it. {text}\n",
                question="Question: Which three coded words appear most often in the text above? Pay no attention to "
                "the dots '....' and explain nothing.",
                prefix="Answer: In the coded text above, the three words that appear most often are:",
                answers=tuple(words[1:4]),
                target=" ".join(words[1:4]),
                metric="contains_all",
                max_new_tokens=50,
            )

        return largest(tokenizer, length, build, 30, 4 * length)  # from 30 on, rank 4 appears


def zipf_counts(total: int, size: int) -> list[int]:
    """How often each rank appears: `total` / (zeta(2) rank^2), rounded down; later ranks less than rank 4."""
    counts = [int(total / (ZETA * rank**2)) for rank in range(1, size + 1)]
    return counts[:4] + [min(number, counts[3] - 1) for number in counts[4:]]


def draw_words(rng: np.random.Generator, split: Split, rare: int) -> tuple[list[str], list[str]]:
    """Ten words of the split, none inside the question, and `rare` more; hyphened pairs where the vocabulary ends."""
    words = [vocabulary()[i] for i in rng.permutation(len(vocabulary()))]
    common = [word for word in words if held_in(word, split) and word not in QUESTION][:COMMON]
    others = [word for word in words if word not in common][:rare]
    pairs: dict[str, None] = {}
    while len(others) + len(pairs) < rare:
        pairs["-".join(vocabulary()[i] for i in rng.integers(len(vocabulary()), size=2))] = None
    return common, others + list(pairs)


def enumerated(words: Sequence[str]) -> str:
    """`1. first 2. second ...`."""
    return " ".join(f"{number}. {word}" for number, word in enumerate(words, 1))


def _ask(listed: str) -> tuple[str, str, str]:
    return (
        f"This is a numbered list of words, some of which appear more often than others. Memorise those.\n{listed}\n",
        QUESTION,
        "Answer: The 10 words that appear most often in the list are:",
    )
