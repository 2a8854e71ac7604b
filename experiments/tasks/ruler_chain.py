"""RULER's variable tracking (arXiv 2404.06654, section 3.2): a chain of assignments in noise, with an example."""

import re
import string
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedTokenizerBase

from experiments.tasks.haystack import fill, pieces
from experiments.tasks.ruler_words import is_short
from experiments.tasks.sample import Sample, Split, generator, held_in

HOPS = 4
EXAMPLE_TOKENS = 500
EXAMPLE_VALUE = "12345"


@dataclass(frozen=True)
class VariableTracking:
    """Name all variables of a chain `VAR A = 54321`, `VAR B = VAR A`, ...; the splits hold different values."""

    name: str = "ruler/vt"

    def make(self, tokenizer: PreTrainedTokenizerBase, length: int, split: Split, index: int) -> Sample:
        """Sample `index` of `split`; ValueError if `length` cannot hold chain, example and question."""
        rng = generator(self.name, length, split, index)
        value = EXAMPLE_VALUE
        while value == EXAMPLE_VALUE or not held_in(value, split):
            value = str(rng.integers(10_000, 100_000))
        if is_short(length):
            return self._hide(tokenizer, length, rng, 5, value)
        shown = self._hide(tokenizer, EXAMPLE_TOKENS, rng, 3, EXAMPLE_VALUE)
        example = f"{shown.context}{shown.question}\n{shown.prefix} {shown.target}\n\n"
        return self._hide(tokenizer, length, rng, 5, value, example)

    def _hide(
        self,
        tokenizer: PreTrainedTokenizerBase,
        length: int,
        rng: np.random.Generator,
        letters: int,
        value: str,
        example: str = "",
    ) -> Sample:
        names = draw_names(rng, HOPS + 1, letters)
        sources = [value, *(f"VAR {name}" for name in names[:-1])]
        chain = [f"VAR {name} = {source}." for name, source in zip(names, sources, strict=True)]

        def build(text: str) -> Sample:
            # The haystack holds the links in random order; each place gets the link that is due.
            due = iter(chain)
            return _sample(self.name, re.sub("|".join(map(re.escape, chain)), lambda _: next(due), text), names, value)

        def with_example(text: str) -> Sample:
            sample = build(text)
            return replace(sample, context=example + sample.context)

        return fill(tokenizer, length, rng, pieces("noise", "train"), chain, with_example)


def draw_names(rng: np.random.Generator, count: int, letters: int) -> list[str]:
    """`count` different names of random capitals."""
    names: dict[str, None] = {}
    while len(names) < count:
        names["".join(rng.choice(list(string.ascii_uppercase), letters))] = None
    return list(names)


def _sample(task: str, text: str, names: list[str], value: str) -> Sample:
    return Sample(
        task=task,
        context=f"Variable assignments are hidden in the following text. Memorise and follow them.\n\n{text}\n",
        question=f"Question: Which variables are assigned the value {value} in the text above? Name all of them.",
        prefix=f"Answer: By the assignments in the text above, {len(names)} variables have the value {value}, namely:",
        answers=tuple(names),
        target=" ".join(names),
        metric="contains_all",
        max_new_tokens=30,
    )
