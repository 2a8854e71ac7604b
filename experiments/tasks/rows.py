"""Rows of the benchmarks that bring their own data: from files or the hub, checked, cut into splits."""

import importlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, get_args, runtime_checkable

import huggingface_hub

from experiments.tasks.corpora import OPTION, data_folder
from experiments.tasks.sample import Split, generator, held_in

QUESTION_FIELDS = frozenset("input context answers all_classes length dataset language _id".split())


class Located(NamedTuple):
    """A row and where it stands, for errors."""

    where: str
    row: object


class Item(NamedTuple):
    """One row in LongBench's form."""

    id: str
    document: str
    input: str
    answers: tuple[str, ...]
    classes: tuple[str, ...]


@runtime_checkable
class Identified(Protocol):
    """What can be put into a split."""

    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=Identified)
R = TypeVar("R")


def file_rows(path: Path, benchmark: str) -> Iterator[Located]:
    """One row a line of a JSON-lines file; FileNotFoundError without it, ValueError for a line that is no JSON."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not found; the folder of {OPTION} must hold {benchmark}'s .jsonl files, one a subset"
        )
    with path.open(encoding="utf-8") as lines:  # some files hold gigabytes
        for number, line in enumerate(lines, 1):
            if text := line.rstrip("\n"):
                yield Located(f"{path}, line {number}", from_json(text, f"{path}, line {number}"))


def hub_rows(benchmark: str, hub: str, subset: str, own: str = "its .jsonl files") -> Iterator[Located]:
    """The test rows of a subset of a data set on the hub, through `datasets`; a folder may hold `own` instead."""
    here = f"or give {OPTION} a folder that holds {own} (see the benchmark's page)"

    def read(datasets: Any) -> Iterable[object]:
        return datasets.load_dataset(hub, subset, split="test")

    for number, row in enumerate(from_hub(benchmark, f"{benchmark}, {subset}", hub, here, read)):
        yield Located(f"{hub}, {subset}, row {number}", row)


def from_hub(benchmark: str, what: str, hub: str, here: str, read: Callable[[Any], R]) -> R:
    """What `read` makes of the package `datasets`; errors name `what` of `hub` was wanted and how else to get it."""
    try:
        datasets = importlib.import_module("datasets")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{benchmark} needs the package datasets: pip install 'namm[bench]', {here}"
        ) from error
    try:
        return read(datasets)
    except Exception as error:  # the hub's clients raise errors of many kinds
        raise FileNotFoundError(f"{what}: cannot load {hub} ({error}); go online, {here}") from error


def hub_file(benchmark: str, hub: str, name: str) -> Path:
    """A file of a data set on the hub, from the hub's cache where it is already there."""
    try:
        return Path(huggingface_hub.hf_hub_download(hub, name, repo_type="dataset"))
    except Exception as error:  # the hub's clients raise errors of many kinds
        raise FileNotFoundError(
            f"{benchmark}: cannot load {name} of {hub} ({error}); go online, or give {OPTION} a folder that holds it"
        ) from error


def from_json(text: str, where: str) -> object:
    """What a text holds; ValueError if it is no JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not valid JSON ({error})") from error


def checked(located: Located, fields: frozenset[str], texts: Sequence[str]) -> Mapping[str, Any]:
    """The row, an object without keys outside `fields` and with text at `texts`."""
    where, row = located
    if not isinstance(row, dict):
        raise ValueError(f"{where}: got {type(row).__name__}, expected a JSON object")
    if unknown := sorted(set(row) - fields):
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; known keys are {', '.join(sorted(fields))}")
    for key in texts:
        if not isinstance(row.get(key), str):
            raise ValueError(f"{where}: key {key!r}: got {row.get(key)!r}, expected a text")
    return row


def text_list(value: object, key: str, where: str, least: int) -> tuple[str, ...]:
    """A list of at least so many texts."""
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value) or len(value) < least:
        raise ValueError(f"{where}: key {key!r}: got {value!r}, expected a list of texts")
    return tuple(value)


def question(located: Located) -> Item:
    """A row in LongBench's form."""
    row = checked(located, QUESTION_FIELDS, ("_id", "context", "input"))
    answers = text_list(row.get("answers"), "answers", located.where, 1)
    classes = text_list(row.get("all_classes") or [], "all_classes", located.where, 0)
    return Item(row["_id"], row["context"], row["input"], answers, classes)


def questions(benchmark: str, hub: str, subset: str, folder: str | None) -> Mapping[Split, tuple[Item, ...]]:
    """A subset in LongBench's form by split, from `folder/<subset>.jsonl` or from the hub."""
    if folder is None:
        return by_split(map(question, hub_rows(benchmark, hub, subset)))
    return by_split(map(question, file_rows(Path(folder) / f"{subset}.jsonl", benchmark)))


def by_split(items: Iterable[T]) -> Mapping[Split, tuple[T, ...]]:
    """Items cut 80/10/10 by the hash of their ids."""
    items = tuple(items)
    return {split: tuple(item for item in items if held_in(item.id, split)) for split in get_args(Split)}


def pick(
    name: str, load: Callable[[str | None], Mapping[Split, Sequence[T]]], length: int, split: Split, index: int
) -> T:
    """Item `index` of a task's split, from the start again after the last.

    load: gives the items by split from the user's folder, or from the hub (None). ValueError for a split or index
    that there is not, and if the split is empty.
    """
    generator(name, length, split, index)  # checks split and index
    folder = data_folder()
    items = load(str(folder) if folder else None)[split]
    if not items:
        raise ValueError(f"{name}: no item belongs to the split {split}; give a file with more lines")
    return items[index % len(items)]


def filled(template: str, fields: Mapping[str, str], where: str) -> tuple[str, str]:
    """What stands before and after `{context}`, each other `{name}` replaced by its field, once and for all."""
    if template.count("{context}") != 1:
        raise ValueError(f"{where}: got {template!r}, expected a text with {{context}}, once")
    field = re.compile(r"\{(\w+)\}")
    names = set(field.findall(template)) - {"context"}
    if unknown := sorted(names - set(fields)):
        raise ValueError(f"{where}: unknown field {{{unknown[0]}}}; known fields are {', '.join(sorted(fields))}")
    before, after = template.split("{context}")
    return field.sub(lambda found: fields[found[1]], before), field.sub(lambda found: fields[found[1]], after)


def prompt_parts(key: str, bundled: str, official: str, own: Path | None) -> tuple[str, str]:
    """What stands before and after the document; `{input}` marks the question in the second part.

    From the user's `own` copy of the benchmark's `official` file where there is one, else from our `bundled` wording.
    """
    text = (own or files("experiments.tasks") / bundled).read_text(encoding="utf-8")
    template = json.loads(text).get(key)
    if not isinstance(template, str) or template.count("{context}") != 1 or "{input}" in template.split("{context}")[0]:
        raise ValueError(f"{own or official}: key {key!r}: got {template!r}, expected a text with {{context}}, once")
    before, after = template.split("{context}")
    return before, after
