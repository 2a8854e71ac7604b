"""SirLLM's Grocery Shopping (arXiv 2405.12528): one wish at the start, recalled after turns of common sense.

The paper has 20 CommonsenseQA questions in between; here as many as the length allows, of our own
(`texts/common_sense.jsonl`, the same for every split, from the start again after the last). Answers name the option
with its letter, so that no bare letter has to be scored.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files

from transformers import PreTrainedTokenizerBase

from experiments.tasks.choices import LETTERS, Choice, read_choices
from experiments.tasks.fitting import largest
from experiments.tasks.sample import Sample, Split, generator

GROCERIES = tuple(
    "almonds apricots avocados beetroot broccoli butter cabbage carrots cauliflower celery cheddar cherries chickpeas "
    "cinnamon coconuts couscous cranberries cucumbers dates figs flour garlic ginger grapes halloumi hummus kale leeks "
    "lemons lentils mangoes mayonnaise mushrooms mustard noodles oatmeal olives onions pancetta parsley peanuts pears "
    "pineapple potatoes pumpkin quinoa radishes raspberries salmon spinach tofu vinegar yoghurt".split()
)
OWNERS: tuple[Split, ...] = ("train", "train", "train", "validation", "test")
OPTIONS = 4
TURN_TOKENS = 20  # a turn of common sense has more tokens than this in any tokenizer


def groceries(split: Split) -> list[str]:
    """The groceries of the split: every fifth one for validation, every fifth for tests."""
    return [name for place, name in enumerate(GROCERIES) if OWNERS[place % len(OWNERS)] == split]


@cache
def common_sense() -> tuple[Choice, ...]:
    """Five-way questions that need no context."""
    with as_file(files("experiments.tasks") / "texts" / "common_sense.jsonl") as path:
        return read_choices(path, 5)


@dataclass(frozen=True)
class Grocery:
    """A thing to buy, questions about other things, and four-way recall; the splits hold different groceries."""

    name: str = "grocery"

    def make(self, tokenizer: PreTrainedTokenizerBase, length: int, split: Split, index: int) -> Sample:
        """Sample `index` of `split`; ValueError if `length` cannot hold wish and question."""
        rng = generator(self.name, length, split, index)
        options = tuple(str(name) for name in rng.choice(groceries(split), OPTIONS, replace=False))
        letter = LETTERS[int(rng.integers(OPTIONS))]
        recall = Choice(self.name, "What did I say that I want to buy?", options, letter)
        most = length // TURN_TOKENS
        order = [rng.permutation(len(common_sense())) for _ in range(most // len(common_sense()) + 1)]
        turns = [_answered(common_sense()[int(which)]) for block in order for which in block]
        opening = "A customer talks with an assistant.\n\n"
        wish = f"I want to buy {recall.right}. Answer with OK.\nAnswer: OK\n\n"

        def build(size: int) -> Sample:
            return Sample(
                task=self.name,
                context=opening + wish + "".join(turns[:size]),
                question=recall.ask(),
                prefix="Answer:",
                answers=(recall.right,),
                target=f"{letter}. {recall.right}",
                metric="contains_all",
                max_new_tokens=16,
                first_line=True,
            )

        return largest(tokenizer, length, build, 0, most)


def _answered(turn: Choice) -> str:
    return f"{turn.ask()}\nAnswer: {turn.letter}. {turn.right}\n\n"
