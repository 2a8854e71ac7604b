"""InfiniteBench (arXiv 2402.13718): 12 tasks on books, dialogues, code, numbers and hidden facts, with its metrics.

Data comes from `<subset>.jsonl` files in the data folder, in the official form, else, file by file, from the hub
(one table of all would not hold: answers are texts in some files, numbers or lists of numbers in others). The prompts
ask for the official answer formats in wording of our own (`infinitebench_prompts.json`); with the benchmark's own
`prompt.py` there its wording for plain language models is used (`yarn_mistral_templates`, read without running
the file), which published scores need. Differences: items are cut 80/10/10 into splits by the hash of their `id`,
and a middle cut never leaves half a character.
"""

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from experiments.tasks.corpora import data_file
from experiments.tasks.fitting import cut_middle
from experiments.tasks.rows import Located, by_split, checked, file_rows, filled, hub_file, pick, text_list
from experiments.tasks.sample import Sample, Split

HUB = "xinrongzhang2022/InfiniteBench"
PROMPTS, TEMPLATES = "prompt.py", "yarn_mistral_templates"
FIELDS = frozenset("id context input answer options".split())
EVERY_ANSWER = frozenset({"longbook_qa_eng", "longbook_qa_chn", "math_calc"})  # of the others, the first one counts
CHOICES = frozenset({"longbook_choice_eng", "code_debug"})

METRIC: Mapping[str, tuple[str, int]] = MappingProxyType(  # and tokens to generate
    {
        "passkey": ("first_integer", 6), "number_string": ("first_integer", 12), "kv_retrieval": ("word_match", 50),
        "longbook_sum_eng": ("rouge_lsum", 1200), "longbook_qa_eng": ("qa_f1", 40),
        "longbook_choice_eng": ("option_letter", 40), "longdialogue_qa_eng": ("name_match", 40),
        "longbook_qa_chn": ("char_f1_zh", 40), "code_debug": ("option_named", 5), "code_run": ("last_integer", 5),
        "math_find": ("first_number", 3), "math_calc": ("prefix_share", 30_000),
    }
)  # fmt: skip


class Item(NamedTuple):
    """One line of the benchmark; `fields` are what a prompt may name beside the document."""

    id: str
    document: str
    fields: Mapping[str, str]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class InfiniteBench:
    """One subset; needs its data at the first sample only."""

    subset: str

    @property
    def name(self) -> str:
        """`infinitebench/<subset>`."""
        return f"infinitebench/{self.subset}"

    def make(self, tokenizer: PreTrainedTokenizerBase, length: int, split: Split, index: int) -> Sample:
        """Item `index` of `split`, from the start again after the last, cut in the middle to fit `length`.

        The context ends with the document. ValueError if the split is empty or `length` holds nothing of the prompt.
        """
        item = pick(self.name, partial(load, self.subset), length, split, index)
        return cut_middle(tokenizer, length, self._sample(item))

    def _sample(self, item: Item) -> Sample:
        template, where = wording(self.subset)
        before, after = filled(template, item.fields, where)
        metric, max_new_tokens = METRIC[self.subset]
        targets = {
            "math_calc": f"[{', '.join(item.answers)}]",
            "longbook_choice_eng": item.answers[-1],
            "code_debug": f"{item.answers[-1]}. {item.answers[0]}",
        }
        return Sample(
            task=self.name,
            context=before + item.document,
            question=after,
            prefix="",
            answers=item.answers,
            target=targets.get(self.subset, item.answers[0]),
            metric=metric,
            max_new_tokens=max_new_tokens,
        )


def wording(subset: str) -> tuple[str, str]:
    """The prompt of a subset, and where it stands: in the user's copy of the official file, else in ours."""
    own = data_file(PROMPTS)
    if own is None:
        bundled = files("experiments.tasks") / "infinitebench_prompts.json"
        return json.loads(bundled.read_text(encoding="utf-8"))[subset], f"infinitebench_prompts.json: key {subset!r}"
    where = f"{own}: {TEMPLATES}, key {subset!r}"
    try:
        assigned = {
            ast.unparse(target): node.value
            for node in ast.parse(own.read_text(encoding="utf-8")).body
            if isinstance(node, ast.Assign)
            for target in node.targets
        }
        template = ast.literal_eval(assigned[TEMPLATES])[subset]
    except (SyntaxError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: not found ({error!r}); give the benchmark's own file, or take it away") from error
    if not isinstance(template, str):
        raise ValueError(f"{where}: got {template!r}, expected a text")
    return template, where


@lru_cache(maxsize=12)
def load(subset: str, folder: str | None) -> Mapping[Split, tuple[Item, ...]]:
    """All items of a subset by split, from `folder/<subset>.jsonl` or from the hub."""
    name = f"{subset}.jsonl"
    path = hub_file("InfiniteBench", HUB, name) if folder is None else Path(folder) / name
    books: dict[str, str] = {}  # many questions are about one book, which is kept once
    items = (_item(located, subset) for located in file_rows(path, "InfiniteBench"))
    return by_split(item._replace(document=books.setdefault(item.document, item.document)) for item in items)


def _item(located: Located, subset: str) -> Item:
    where = located.where
    row = checked(located, FIELDS, ("context", "input"))
    if type(row.get("id")) not in (int, str):
        raise ValueError(f"{where}: key 'id': got {row.get('id')!r}, expected a whole number or a text")
    answers = _answers(row.get("answer"), where)
    fields = {"input": row["input"], "question": row["input"], **_named(subset, row["input"], where)}
    if subset in CHOICES:
        options = text_list(row.get("options"), "options", where, 4)
        fields |= {f"OPTION_{letter}": option for letter, option in zip("ABCD", options, strict=False)}
        answers = _choice(answers, options, where)
    elif subset not in EVERY_ANSWER:
        answers = answers[:1]
    return Item(str(row["id"]), row["context"], fields, answers)


def _answers(value: Any, where: str) -> tuple[str, ...]:
    """Texts and numbers, one or a list of them or (Math.Calc) a list in a list, as texts."""
    found = value if isinstance(value, list) else [value]
    if len(found) == 1 and isinstance(found[0], list):
        found = found[0]
    if not found or not all(type(one) in (str, int, float) for one in found):
        raise ValueError(f"{where}: key 'answer': got {value!r}, expected a text, a number or a list of these")
    return tuple(map(str, found))


def _choice(answers: tuple[str, ...], options: tuple[str, ...], where: str) -> tuple[str, str]:
    """Text and letter of the right option; some rows give the letter, the others are looked up."""
    if len(answers) == 2 and answers[1] in ("A", "B", "C", "D"):
        return answers[0], answers[1]
    if answers[0] not in options[:4]:
        raise ValueError(f"{where}: key 'answer': got {answers[0]!r}, expected one of the options {options[:4]}")
    return answers[0], "ABCD"[options.index(answers[0])]


def _named(subset: str, question: str, where: str) -> dict[str, str]:
    """What official prompts name in the question: a call and its function, the number that is sought."""
    pattern = {"code_run": r"(func_[0-9]+)\(-?[0-9]+\)", "math_find": r"The (.+) of"}.get(subset)
    if pattern is None:
        return {}
    found = re.search(pattern, question)
    if not found:
        raise ValueError(f"{where}: key 'input': got {question!r}, expected {pattern} in it")
    if subset == "code_run":
        return {"func": found[1], "func_call": found[0]}
    return {"prefix": f"What is the {found[1].lower()} in the following list?"}


INFINITEBENCH = tuple(map(InfiniteBench, METRIC))
