"""RULER (arXiv 2404.06654): its 13 tasks with its settings, answer prefixes, generation lengths and metrics.

Differences: wording of our own; the bundled text stands for Paul Graham's essays and made documents for SQuAD and
HotpotQA (the data folder may hold those, see `ruler_qa`); haystacks are filled to the length, not in coarse steps;
shuffles are drawn anew for every sample. Below 1024 tokens, which RULER does not cover, no worked example is shown,
generation is only as long as the answers need and UUIDs are cut to eight digits.

The release repeats one shuffle, so that answers of equally long lists always stand at the same places (`ruler_shuffle`
says which). `ruler/cwe:released`, `ruler/fwe:released`, `ruler/qa_1:released` and `ruler/qa_2:released` have that order
and the very words and documents of the tasks without the suffix, which alone count among RULER's 13.
"""

from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

from experiments.tasks.haystack import fill, pieces
from experiments.tasks.needles import VALUE_TOKENS, ValueKind, draw_keys, draw_value, listing
from experiments.tasks.ruler_chain import VariableTracking
from experiments.tasks.ruler_qa import QuestionAnswering
from experiments.tasks.ruler_words import CommonWords, FrequentWords, is_short
from experiments.tasks.sample import Sample, Split, Task, generator

Haystack = Literal["text", "noise", "needles"]
NEEDLE_TOKENS = 8  # a needle has more tokens than this in any tokenizer
SHORT_UUID = 8  # characters that are left of a UUID in short prompts


@dataclass(frozen=True)
class RulerNeedle:
    """`count` needles, hidden in text, in noise or among needles that nobody asks for.

    `shared` gives all values to one key; of several keys the first one is asked for, or all (`ask_all`).
    """

    subset: str
    source: Haystack
    key: ValueKind = "word"
    value: ValueKind = "number"
    count: int = 1
    shared: bool = False
    ask_all: bool = False

    @property
    def name(self) -> str:
        """`ruler/niah_...`, the released name."""
        return f"ruler/{self.subset}"

    def make(self, tokenizer: PreTrainedTokenizerBase, length: int, split: Split, index: int) -> Sample:
        """Sample `index` of `split`; ValueError if `length` cannot hold needles and question."""
        rng = generator(self.name, length, split, index)
        short = is_short(length)

        def draw(kind: ValueKind, total: int) -> list[str]:
            cut = SHORT_UUID if short and kind == "uuid" else None
            return [draw_value(rng, split, kind)[:cut] for _ in range(total)]

        several = 1 if self.shared else self.count
        keys = draw_keys(rng, split, several) if self.key == "word" else draw(self.key, several)
        values = draw(self.value, self.count)
        needles = [self._needle(*pair) for pair in zip(keys * (self.count // several), values, strict=True)]
        if self.source == "needles":
            others = [key for key in dict.fromkeys(draw(self.key, length // NEEDLE_TOKENS)) if key not in keys]
            sentences = tuple(map(self._needle, others, draw(self.value, len(others))))
        else:
            sentences = pieces(self.source, split)
        asked, answers = (keys, values) if self.shared or self.ask_all else (keys[:1], values[:1])
        return fill(tokenizer, length, rng, sentences, needles, lambda text: self._sample(text, asked, answers, short))

    def _needle(self, key: str, value: str) -> str:
        return f"One of the special magic {self.value}s for {key} is {value}."

    def _sample(self, text: str, asked: list[str], answers: list[str], short: bool) -> Sample:
        several = len(answers) > 1
        tokens = SHORT_UUID + 1 if self.value == "uuid" else VALUE_TOKENS[self.value]
        what, be = f"special magic {self.value}" + "s" * several, "are" if several else "is"
        hidden = f"Some special magic {self.value}s are" if several else f"A special magic {self.value} is"
        pronoun, every = ("them", "all the") if several else ("it", "the")
        subject = f"{what} for {listing(asked)}"
        return Sample(
            task=self.name,
            context=f"{hidden} hidden in the following text. Memorise {pronoun}, a question follows.\n{text}\n",
            question=f"What {be} {every} {subject} that the text mentions?",
            prefix=f"The {subject} that the text mentions {be}",
            answers=tuple(answers),
            target=listing(answers),
            metric="contains_all",
            max_new_tokens=tokens * len(answers) + 4 * (len(answers) - 1) if short else 128,
        )


RULER: tuple[Task, ...] = (
    RulerNeedle("niah_single_1", "noise"),
    RulerNeedle("niah_single_2", "text"),
    RulerNeedle("niah_single_3", "text", value="uuid"),
    RulerNeedle("niah_multikey_1", "text", count=4),
    RulerNeedle("niah_multikey_2", "needles"),
    RulerNeedle("niah_multikey_3", "needles", key="uuid", value="uuid"),
    RulerNeedle("niah_multivalue", "text", count=4, shared=True),
    RulerNeedle("niah_multiquery", "text", count=4, ask_all=True),
    VariableTracking(),
    CommonWords(),
    FrequentWords(),
    QuestionAnswering(1),
    QuestionAnswering(2),
)
RELEASED: tuple[Task, ...] = (
    CommonWords("released"),
    FrequentWords("released"),
    QuestionAnswering(1, "released"),
    QuestionAnswering(2, "released"),
)
