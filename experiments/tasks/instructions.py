"""Short instructions behind real texts, which the host itself answers: what a memory should not change.

No answer is right or wrong here: the host's own, greedy and with the full cache, takes the place of one
(`experiments.recordings`), so that a fit learns what answers of any kind look at. Texts are documentation and code of
installed packages (as in `code_completion`, with its splits) and the bundled haystack, a quarter of the length (256
tokens at least) to the whole of it.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from experiments.tasks.code_completion import PACKAGES, TOKEN_CHARACTERS, sources
from experiments.tasks.fitting import largest
from experiments.tasks.haystack import pieces
from experiments.tasks.sample import Sample, Split, generator

Kind = Literal["docs", "code", "prose"]
ASKED = (
    "What is this text about?",
    "Summarize the text above in two sentences.",
    "List the three most important points of the text.",
    "Write a title for the text above.",
    "What does the text say at its beginning?",
    "Explain the last part of the text in simple words.",
    "Which names are mentioned in the text?",
    "Give an example that the text mentions.",
    "What happens in the middle of the text?",
    "Write one question that the text answers, then its answer.",
    "Continue the text.",
    "What is the first thing that is described?",
)
LEAST_DOCSTRING, LEAST_TEXT = 200, 3000  # characters: shorter ones tell little
LONGEST_LINE = 200  # characters: longer ones are data
SHORTEST, ANSWER = 256, 48  # tokens


@dataclass(frozen=True)
class Instructions:
    """A text of one kind and an instruction; answers and target are empty."""

    kind: Kind
    packages: tuple[str, ...] = PACKAGES

    @property
    def name(self) -> str:
        return "/".join(("instructions", self.kind, *(self.packages if self.packages != PACKAGES else ())))

    def make(self, tokenizer: PreTrainedTokenizerBase, length: int, split: Split, index: int) -> Sample:
        """Sample `index` of `split`; ValueError if `length` cannot hold a line of text and the rest."""
        rng = generator(self.name, length, split, index)
        wanted = int(rng.integers(min(length, max(length // 4, SHORTEST)), length + 1))
        lines, gap = self._lines(wanted, split, rng)
        asked = ASKED[int(rng.integers(len(ASKED)))]

        def build(size: int) -> Sample:
            text = gap.join(lines[:size]).strip()
            return Sample(self.name, f"{text}\n\n", asked, "", (), "", "contains_all", ANSWER)

        return largest(tokenizer, wanted, build, 1, len(lines))

    def _lines(self, tokens: int, split: Split, rng: np.random.Generator) -> tuple[Sequence[str], str]:
        """Lines from a random one of a text on, more than `tokens` where it has them, and what joins them."""
        if self.kind == "prose":
            sentences = pieces("text", split)
            begin = int(rng.integers(len(sentences)))
            return (*sentences[begin:], *sentences[:begin]), " "
        texts = documentation(self.packages, split) if self.kind == "docs" else code(self.packages, split)
        lines = texts[int(rng.integers(len(texts)))].split("\n")
        ends = np.cumsum([len(line) + 1 for line in lines])
        begins = 1 + np.searchsorted(ends, max(ends[-1] - TOKEN_CHARACTERS * tokens, 0))
        return lines[int(rng.integers(begins)) :], "\n"


@cache
def code(packages: tuple[str, ...], split: Split) -> tuple[str, ...]:
    """Python files of packages that are long enough, without long lines."""
    found = (source.path.read_text(encoding="utf-8") for source in sources(packages)[split])
    return tuple(text for text in found if _readable(text))


@cache
def documentation(packages: tuple[str, ...], split: Split) -> tuple[str, ...]:
    """The longer docstrings of a file, a blank line between them, for every file that has enough of them."""
    found = ("\n\n".join(_docstrings(text)) for text in code(packages, split))
    return tuple(text for text in found if _readable(text))


def _readable(text: str) -> bool:
    return len(text) >= LEAST_TEXT and max(map(len, text.split("\n"))) <= LONGEST_LINE


def _docstrings(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            found = ast.get_docstring(node)
            if found and len(found) >= LEAST_DOCSTRING:
                yield found


INSTRUCTIONS = (
    Instructions("prose"),
    *(Instructions(kind, some) for kind in ("docs", "code") for some in (PACKAGES, *((one,) for one in PACKAGES))),
)
