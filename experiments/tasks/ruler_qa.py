"""RULER's question answering (arXiv 2404.06654, section 3.4): documents with the answer among others without.

`ruler/qa_1` asks for one fact, `ruler/qa_2` for one that takes two documents. The data folder may hold `squad.json` and
`hotpotqa.json` in their official form; without them documents are made up, about towns, rivers and people that do not
exist, so that nothing can be known by heart.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from experiments.tasks.corpora import data_file
from experiments.tasks.fitting import largest
from experiments.tasks.ruler_shuffle import Shuffle, shuffle_name, shuffled
from experiments.tasks.sample import Sample, Split, generator, held_in

DOCUMENT_TOKENS = 25  # a document has more tokens than this
ONSETS = tuple("b br c d dr f g gl h k l m n p r s st t tr v w z".split())
VOWELS = tuple("a e i o u ai ea or ul en".split())
ENDS = {"town": ("ton", "ford", "wick", "stead"), "river": ("na", "ra", "sel", "mar"), "person": ("son", "ley", "berg")}
FIRST = tuple("Ada Boris Carla Denis Elsa Felix Gerda Hugo Irma Jonas Klara Leon Mona Nils Olga Pavel Sven".split())
GOODS = tuple("cheese glass rope paper honey lace cider clocks boots pottery salt candles".split())
TRADES = tuple("painter surgeon botanist printer violinist surveyor poet baker chemist sculptor".split())


class Question(NamedTuple):
    """A question, its accepted answers, the documents that hold them and others, the nearest first."""

    text: str
    answers: tuple[str, ...]
    gold: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True)
class QuestionAnswering:
    """Documents up to the length, in random order, about a question whose answer takes `documents` of them."""

    documents: Literal[1, 2]
    shuffle: Shuffle = "sample"

    @property
    def name(self) -> str:
        """`ruler/qa_1` or `ruler/qa_2`, with its shuffle."""
        return shuffle_name(f"ruler/qa_{self.documents}", self.shuffle)

    def make(self, tokenizer: PreTrainedTokenizerBase, length: int, split: Split, index: int) -> Sample:
        """Sample `index` of `split`; ValueError if `length` cannot hold the documents with the answer."""
        rng = generator(f"ruler/qa_{self.documents}", length, split, index)  # the same documents in either order
        most = length // DOCUMENT_TOKENS
        own = data_file("squad.json" if self.documents == 1 else "hotpotqa.json")
        if own:
            question = _from_corpus(own, rng, split, index, most)
        else:
            question = invent(rng, split, self.documents, most)
        seed = int(rng.integers(2**63))
        instruction = "Use the documents to answer the question. Give the answer alone, without any other words."

        def build(size: int) -> Sample:
            chosen = [*question.gold, *question.others[:size]]
            order = shuffled(len(chosen), self.shuffle, np.random.default_rng(seed))
            text = "\n\n".join(f"Document {i}:\n{chosen[which]}" for i, which in enumerate(order, 1))
            return Sample(
                task=self.name,
                context=f"{instruction}\n\nThese are the documents.\n\n{text}\n\n",
                question=f"{instruction}\n\nQuestion: {question.text}",
                prefix="Answer:",
                answers=question.answers,
                target=question.answers[0],
                metric="contains_any",
                max_new_tokens=32,
            )

        return largest(tokenizer, length, build, 0, len(question.others))


def invent(rng: np.random.Generator, split: Split, documents: Literal[1, 2], others: int) -> Question:
    """A question about a made-up town that belongs to the split, or about somebody who was born there."""
    names = _Names(rng)
    town = names.draw("town")
    while not held_in(town, split):
        town = names.draw("town")
    river, founder = names.draw("river"), names.person()
    place = _town(rng, town, river, founder)
    if documents == 1:
        asked = (f"Who founded {town}?", founder), (f"On which river does {town} lie?", river)
        text, answer = asked[int(rng.integers(2))]
        gold = (place,)
    else:
        person = names.person()
        text, answer = f"On which river lies the town where {person} was born?", river
        gold = (place, _person(rng, person, town))
    far = [
        _town(rng, names.draw("town"), names.draw("river"), names.person())
        if rng.integers(documents) == 0
        else _person(rng, names.person(), names.draw("town"))
        for _ in range(others)
    ]
    return Question(text, (answer,), gold, tuple(far))


class _Names:
    """Names that no other thing of the same prompt bears."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.taken: set[str] = set()

    def draw(self, kind: str) -> str:
        """A new name of two syllables (three once those grow rare) and an ending of its kind."""
        while True:
            syllables = 2 + (len(self.taken) > 5000)
            stem = "".join(_pick(self.rng, ONSETS) + _pick(self.rng, VOWELS) for _ in range(syllables))
            name = (stem + _pick(self.rng, ENDS[kind])).capitalize()
            if name not in self.taken:
                self.taken.add(name)
                return name

    def person(self) -> str:
        """First name and surname."""
        return f"{_pick(self.rng, FIRST)} {self.draw('person')}"


def _pick(rng: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]


def _town(rng: np.random.Generator, town: str, river: str, founder: str) -> str:
    year, goods = rng.integers(1100, 1900), _pick(rng, GOODS)
    return f"{town} is a town on the river {river}. It was founded in {year} by {founder} and is known for its {goods}."


def _person(rng: np.random.Generator, person: str, town: str) -> str:
    year, trade = rng.integers(1700, 1980), _pick(rng, TRADES)
    return f"{person} was a {trade}, born in {town} in {year}, who wrote a book about {_pick(rng, GOODS)} late in life."


def _from_corpus(path: Path, rng: np.random.Generator, split: Split, index: int, others: int) -> Question:
    corpus = squad(path) if path.name == "squad.json" else hotpotqa(path)
    mine = [row for row in corpus if held_in(row.text, split)]
    if not mine:
        raise ValueError(f"{path}: no question belongs to the split {split}; give a file with more questions")
    row = mine[index % len(mine)]
    near = [row.others[i] for i in rng.permutation(len(row.others))]
    used = {*row.gold, *near}
    # Further documents come from other questions; twice as many are drawn as needed, since some are among the used.
    drawn = (corpus[i].gold for i in rng.permutation(len(corpus))[: 2 * others])
    far = dict.fromkeys(text for gold in drawn for text in gold if text not in used)
    return Question(row.text, row.answers, row.gold, (*near, *far)[:others])


@lru_cache(maxsize=2)
def squad(path: Path) -> tuple[Question, ...]:
    """Answerable questions with their paragraph; the others are the rest of the article."""
    rows: list[Question] = []
    for article in _read(path, "data"):
        texts = [paragraph["context"] for paragraph in article["paragraphs"]]
        for paragraph in article["paragraphs"]:
            text = paragraph["context"]
            near = tuple(dict.fromkeys(other for other in texts if other != text))
            for asked in paragraph["qas"]:
                answers = tuple(dict.fromkeys(answer["text"] for answer in asked["answers"]))
                if answers and not asked.get("is_impossible", False):
                    rows.append(Question(asked["question"], answers, (text,), near))
    return tuple(rows)


@lru_cache(maxsize=2)
def hotpotqa(path: Path) -> tuple[Question, ...]:
    """Questions with the ten paragraphs of their own context, title first."""
    return tuple(
        Question(row["question"], (row["answer"],), tuple(f"{t}\n{''.join(s)}" for t, s in row["context"]), ())
        for row in _read(path, None)
    )


def _read(path: Path, key: str | None) -> list[Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = found[key] if key else found
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not in the official form of {path.stem} ({error})") from error
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path}: got {type(rows).__name__}, expected a list of entries")
    return rows
