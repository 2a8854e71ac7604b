"""A five-digit pass key in repeated noise, after Mohtashami and Jaggi (arXiv 2305.16300), with its own wording."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from experiments.tasks.haystack import fill, pieces
from experiments.tasks.sample import Sample, Split, generator, held_in


@dataclass(frozen=True)
class Passkey:
    """One number to find; the splits hold different numbers."""

    name: str = "passkey"

    def make(self, tokenizer: PreTrainedTokenizerBase, length: int, split: Split, index: int) -> Sample:
        """Sample `index` of `split`; ValueError if `length` cannot hold needle and question."""
        rng = generator(self.name, length, split, index)
        number = str(rng.integers(10_000, 100_000))
        while not held_in(number, split):
            number = str(rng.integers(10_000, 100_000))

        def build(text: str) -> Sample:
            return Sample(
                task=self.name,
                context=f"A pass key is hidden in the following text. Find it and remember it.\n{text}\n",
                question="What is the pass key?",
                prefix="The pass key is",
                answers=(number,),
                target=number,
                metric="contains_all",
                max_new_tokens=8,
            )

        needle = f"The pass key is {number}. Remember it: {number} is the pass key."
        return fill(tokenizer, length, rng, pieces("noise", split), [needle], build)
