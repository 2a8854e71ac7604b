"""LongBench v2 (arXiv 2412.15204): questions with four choices on long texts of six domains, answered by letter.

Data comes from `data.json` in the data folder, the benchmark's own file, else from the hub. The prompt asks for
the official answer format in wording of our own; with the benchmark's own `0shot.txt` there its exact wording
is used, which published scores need. Differences: items are cut 80/10/10 into splits by the hash of their `_id`,
decoding is greedy (published scores sample at temperature 0.1), and a middle cut never leaves half a character.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from experiments.tasks.corpora import OPTION, data_file
from experiments.tasks.fitting import cut_middle
from experiments.tasks.rows import Located, by_split, checked, filled, from_json, hub_file, pick
from experiments.tasks.sample import Sample, Split

HUB, FILE = "THUDM/LongBench-v2", "data.json"
PROMPT = "0shot.txt"
LETTERS = ("A", "B", "C", "D")
CHOICES = tuple(f"choice_{letter}" for letter in LETTERS)
TEXTS = ("_id", "question", *CHOICES, "answer", "context")
FIELDS = frozenset({*TEXTS, "domain", "sub_domain", "difficulty", "length"})
NAMES = {"$DOC$": "context", "$Q$": "question"} | {f"$C_{letter}$": f"choice_{letter}" for letter in LETTERS}
WORDING = (
    "Here is a text, and after it a question with four choices, one of which is right.\n\n{context}\n\n"
    "Question: {question}\n(A) {choice_A}\n(B) {choice_B}\n(C) {choice_C}\n(D) {choice_D}\n\n"
    'Answer in this form, with the letter of your choice: "The correct answer is (letter)".\n\n'
)


class Item(NamedTuple):
    """One question; `fields` are question and choices, by the file's names."""

    id: str
    document: str
    fields: Mapping[str, str]
    answer: str


@dataclass(frozen=True)
class LongBenchV2:
    """The whole benchmark; needs its data at the first sample only."""

    name: str = "longbench-v2"

    def make(self, tokenizer: PreTrainedTokenizerBase, length: int, split: Split, index: int) -> Sample:
        """Item `index` of `split`, from the start again after the last, cut in the middle to fit `length`.

        The context ends with the document. ValueError if the split is empty or `length` holds nothing of the prompt.
        """
        item = pick(self.name, load, length, split, index)
        template, where = wording()
        before, after = filled(template, item.fields, where)
        sample = Sample(
            task=self.name,
            context=before + item.document,
            question=after,
            prefix="",
            answers=(item.answer,),
            target=f"The correct answer is ({item.answer})",
            metric="stated_letter",
            max_new_tokens=128,
        )
        return cut_middle(tokenizer, length, sample)


def wording() -> tuple[str, str]:
    """The prompt, fields in braces, and where it stands: in the user's copy of the official file, else here."""
    own = data_file(PROMPT)
    if own is None:
        return WORDING, __name__
    template = own.read_text(encoding="utf-8")
    for name, field in NAMES.items():
        template = template.replace(name, f"{{{field}}}")
    return template, str(own)


@lru_cache(maxsize=1)
def load(folder: str | None) -> Mapping[Split, tuple[Item, ...]]:
    """All items by split, from `folder/data.json` or from the hub."""
    path = hub_file("LongBench v2", HUB, FILE) if folder is None else Path(folder) / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; the folder of {OPTION} must hold LongBench v2's {FILE}")
    rows = from_json(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(rows, list):
        raise ValueError(f"{path}: got {type(rows).__name__}, expected a list of questions")
    return by_split(_item(Located(f"{path}, entry {i}", row)) for i, row in enumerate(rows))


def _item(located: Located) -> Item:
    row = checked(located, FIELDS, TEXTS)
    if row["answer"] not in LETTERS:
        raise ValueError(f"{located.where}: key 'answer': got {row['answer']!r}, expected one of {', '.join(LETTERS)}")
    # The original takes white space off everything that goes into the prompt.
    fields = {key: row[key].strip() for key in ("question", *CHOICES)}
    return Item(row["_id"], row["context"].strip(), fields, row["answer"])
