"""StreamEval of StreamingLLM (arXiv 2309.17453, section 4.4), which was never released: recall at a fixed distance.

The paper asks every ten lines of one endless stream; here each prompt is one moment of such a stream, with wording of
our own. A memory that keeps a recent window answers as long as the window reaches back to the line, never after.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from experiments.tasks.fitting import largest
from experiments.tasks.sample import Sample, Split, generator, held_in

LINE_TOKENS = 6  # a line has more tokens than this in any tokenizer


@cache
def values(split: Split) -> Int[np.ndarray, " value"]:
    """The five-digit numbers that belong to the split."""
    return np.array([number for number in range(10_000, 100_000) if held_in(str(number), split)])


@dataclass(frozen=True)
class StreamEval:
    """Numbered lines with a value each; asked is the value `distance` lines before the last.

    Where fewer lines fit, the first one is asked. The splits hold different values.
    """

    distance: int = 20
    name: str = "stream-eval"

    def __post_init__(self) -> None:
        if self.distance < 0:
            raise ValueError(f"distance: got {self.distance}, expected 0 or more lines (0 asks for the last line)")

    def make(self, tokenizer: PreTrainedTokenizerBase, length: int, split: Split, index: int) -> Sample:
        """Sample `index` of `split`; ValueError if `length` cannot hold two lines and the question."""
        rng = generator(self.name, length, split, index)
        most = max(2, length // LINE_TOKENS)
        drawn = rng.choice(values(split), most, replace=most > len(values(split)))
        lines = [f"line {number}: REGISTER_CONTENT {value}" for number, value in enumerate(drawn, 1)]

        def build(size: int) -> Sample:
            asked = max(1, size - self.distance)
            answer = str(drawn[asked - 1])
            return Sample(
                task=self.name,
                context="Remember the register content of every line, one of them is asked for.\n"
                + "\n".join(lines[:size])
                + "\n",
                question=f"What is the REGISTER_CONTENT of line {asked}?",
                prefix=f"The REGISTER_CONTENT of line {asked} is",
                answers=(answer,),
                target=answer,
                metric="contains_all",
                max_new_tokens=8,
            )

        return largest(tokenizer, length, build, 2, most)
