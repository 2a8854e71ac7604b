"""LongBench (arXiv 2308.14508): 21 tasks in English, Chinese and code, with its metrics and generation lengths.

Data comes from `<subset>.jsonl` files in the folder NAMM_DATA, in the official form, else from the hub. The prompts
have the official parts in the official order and ask for the official answer formats, in wording of our own
(`longbench_prompts.json`); with the benchmark's own `dataset2prompt.json` in NAMM_DATA its exact wording is used,
which published scores need. Differences: items are cut 80/10/10 into splits by the hash of their `_id` (the
published memory was trained and tested on the same ones), and a middle cut never leaves half a character.
"""

import importlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, get_args

from transformers import PreTrainedTokenizerBase

from experiments.tasks.corpora import data_file, data_folder
from experiments.tasks.fitting import cut_middle
from experiments.tasks.sample import Sample, Split, generator, held_in

HUB = "Xnhyacinth/LongBench"
PROMPTS = "dataset2prompt.json"
FIELDS = frozenset("input context answers all_classes length dataset language _id".split())
FIRST_LINE = frozenset({"trec", "triviaqa", "samsum", "lsht"})
PLAIN = FIRST_LINE | {"lcc", "repobench-p"}  # chat models do worse on these inside a chat template

METRIC: Mapping[str, tuple[str, int]] = MappingProxyType(  # and tokens to generate
    {
        "narrativeqa": ("qa_f1", 128), "qasper": ("qa_f1", 128), "multifieldqa_en": ("qa_f1", 64),
        "multifieldqa_zh": ("qa_f1_zh", 64), "hotpotqa": ("qa_f1", 32), "2wikimqa": ("qa_f1", 32),
        "musique": ("qa_f1", 32), "dureader": ("rouge_l_zh", 128), "gov_report": ("rouge_l", 512),
        "qmsum": ("rouge_l", 512), "multi_news": ("rouge_l", 512), "vcsum": ("rouge_l_zh", 512),
        "trec": ("classification", 64), "triviaqa": ("qa_f1", 32), "samsum": ("rouge_l", 128),
        "lsht": ("classification", 64), "passage_count": ("count", 32), "passage_retrieval_en": ("retrieval", 32),
        "passage_retrieval_zh": ("retrieval_zh", 32), "lcc": ("code_similarity", 64),
        "repobench-p": ("code_similarity", 64),
    }
)  # fmt: skip


class Item(NamedTuple):
    """One line of the benchmark."""

    id: str
    document: str
    input: str
    answers: tuple[str, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class LongBench:
    """One subset; needs its data at the first sample only."""

    subset: str

    @property
    def name(self) -> str:
        """`longbench/<subset>`."""
        return f"longbench/{self.subset}"

    def make(self, tokenizer: PreTrainedTokenizerBase, length: int, split: Split, index: int) -> Sample:
        """Item `index` of `split`, from the start again after the last, cut in the middle to fit `length`.

        The context ends with the document. ValueError if the split is empty or `length` holds nothing of the prompt.
        """
        generator(self.name, length, split, index)  # checks split and index
        folder = data_folder()
        items = load(self.subset, str(folder) if folder else None)[split]
        if not items:
            raise ValueError(f"{self.name}: no item belongs to the split {split}; give a file with more lines")
        return cut_middle(tokenizer, length, self._sample(items[index % len(items)]))

    def _sample(self, item: Item) -> Sample:
        before, after = prompt_parts(self.subset)
        metric, max_new_tokens = METRIC[self.subset]
        return Sample(
            task=self.name,
            context=before + item.document,
            question=after.replace("{input}", item.input),
            prefix="",
            answers=item.answers,
            target=item.answers[0],
            metric=metric,
            max_new_tokens=max_new_tokens,
            classes=item.classes,
            first_line=self.subset in FIRST_LINE,
            chat=self.subset not in PLAIN,
        )


def prompt_parts(subset: str) -> tuple[str, str]:
    """What stands before and after the document; `{input}` marks the question in the second part."""
    own = data_file(PROMPTS)
    text = (own or files("experiments.tasks") / "longbench_prompts.json").read_text(encoding="utf-8")
    template = json.loads(text).get(subset)
    if not isinstance(template, str) or template.count("{context}") != 1 or "{input}" in template.split("{context}")[0]:
        raise ValueError(f"{own or PROMPTS}: key {subset!r}: got {template!r}, expected a text with {{context}}, once")
    before, after = template.split("{context}")
    return before, after


@lru_cache(maxsize=32)
def load(subset: str, folder: str | None) -> Mapping[Split, tuple[Item, ...]]:
    """All items of a subset by split, from `folder/<subset>.jsonl` or from the hub."""
    items = _from_hub(subset) if folder is None else _from_file(Path(folder) / f"{subset}.jsonl")
    return {split: tuple(item for item in items if held_in(item.id, split)) for split in get_args(Split)}


def _from_file(path: Path) -> list[Item]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; NAMM_DATA must hold LongBench's .jsonl files, one a subset")
    lines = path.read_text(encoding="utf-8").split("\n")
    return [_item(_parse(line, f"{path}, line {i}"), f"{path}, line {i}") for i, line in enumerate(lines, 1) if line]


def _from_hub(subset: str) -> list[Item]:
    here = "or set NAMM_DATA to a folder that holds its .jsonl files (see the benchmark's page)"
    try:
        datasets = importlib.import_module("datasets")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"LongBench needs the package datasets: pip install 'namm[bench]', {here}") from error
    try:
        rows: Iterable[object] = datasets.load_dataset(HUB, subset, split="test")
    except Exception as error:  # the hub's clients raise errors of many kinds
        raise FileNotFoundError(f"LongBench, {subset}: cannot load {HUB} ({error}); go online, {here}") from error
    return [_item(row, f"{HUB}, {subset}, row {i}") for i, row in enumerate(rows)]


def _parse(line: str, where: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not valid JSON ({error})") from error


def _item(row: object, where: str) -> Item:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: got {type(row).__name__}, expected a JSON object")
    if unknown := sorted(set(row) - FIELDS):
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; known keys are {', '.join(sorted(FIELDS))}")
    for key in ("_id", "context", "input"):
        if not isinstance(row.get(key), str):
            raise ValueError(f"{where}: key {key!r}: got {row.get(key)!r}, expected a text")
    lists = [row.get("answers"), row.get("all_classes") or []]
    for key, value, least in zip(("answers", "all_classes"), lists, (1, 0), strict=True):
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value) or len(value) < least:
            raise ValueError(f"{where}: key {key!r}: got {value!r}, expected a list of texts")
    answers, classes = (tuple(value or ()) for value in lists)
    return Item(row["_id"], row["context"], row["input"], answers, classes)


LONGBENCH = tuple(map(LongBench, METRIC))
