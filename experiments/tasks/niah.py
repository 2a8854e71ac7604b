"""Needle in a haystack, in the forms of RULER (arXiv 2404.06654, section 3), with its own wording."""

from dataclasses import dataclass
from typing import Literal, get_args

from transformers import PreTrainedTokenizerBase

from experiments.tasks.haystack import Source, fill, pieces
from experiments.tasks.needles import VALUE_TOKENS, ValueKind, draw_keys, draw_value, listing
from experiments.tasks.sample import Sample, Split, generator

Form = Literal["single", "multikey", "multivalue", "multiquery"]
COUNT = 4  # keys, values or questions of the three multiple forms, as in RULER


@dataclass(frozen=True)
class Needle:
    """Hidden `key is value` sentences: one key of one asked, one of four, four values of one, or four of four."""

    form: Form
    source: Source = "text"
    value: ValueKind = "number"

    @property
    def name(self) -> str:
        """`niah-<form>[-noise][-word|-uuid]`."""
        return f"niah-{self.form}" + "-noise" * (self.source == "noise") + f"-{self.value}" * (self.value != "number")

    def make(self, tokenizer: PreTrainedTokenizerBase, length: int, split: Split, index: int) -> Sample:
        """Sample `index` of `split`; ValueError if `length` cannot hold needles and question."""
        rng = generator(self.name, length, split, index)
        keys = draw_keys(rng, split, COUNT if self.form in ("multikey", "multiquery") else 1)
        values = [draw_value(rng, split, self.value) for _ in range(COUNT if self.form == "multivalue" else len(keys))]
        owners = keys * (len(values) // len(keys))
        article = "One" if self.form == "multivalue" else "The"
        needles = [f"{article} magic {self.value} for {key} is {v}." for key, v in zip(owners, values, strict=True)]
        asked, answers = (keys[:1], values[:1]) if self.form == "multikey" else (keys, values)
        return fill(
            tokenizer, length, rng, pieces(self.source, split), needles, lambda text: self._sample(text, asked, answers)
        )

    def _sample(self, text: str, asked: list[str], answers: list[str]) -> Sample:
        several = len(answers) > 1
        magic, be = (f"magic {self.value}s", "are") if several else (f"magic {self.value}", "is")
        hint = f"Some magic {self.value}s are" if self.form != "single" else f"A magic {self.value} is"
        subject = f"{magic} for {listing(asked)}"
        return Sample(
            task=self.name,
            context=f"{hint} hidden in the following text. Keep it in mind, a question about this follows.\n{text}\n",
            question=f"What {be} {'all ' * several}the {subject}?",
            prefix=f"The {subject} {be}",
            answers=tuple(answers),
            target=listing(answers),
            metric="contains_all",
            max_new_tokens=VALUE_TOKENS[self.value] * len(answers) + 4 * (len(answers) - 1),
        )


NEEDLES = tuple(
    Needle(form, source, value)
    for form in get_args(Form)
    for source in get_args(Source)
    for value in get_args(ValueKind)
)
