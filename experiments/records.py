"""An evaluation on disk: its settings, and verdicts and traces that are appended as they come, so that it resumes."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from evolve.tracking import complete_lines
from experiments.summary import Summary, Verdict
from experiments.trace import Trace, together
from namm.artefact import Memory

SETTINGS, TABLE, VERDICTS, TRACES = "evaluate.json", "table.json", "verdicts.jsonl", "traces.jsonl"
RUN = "run.json"  # of a search, instead
CLAIM = "settings.json"  # of a training run, beside its checkpoints
CONTENTS = "contents of "  # and a memory or a task file: the field that says what it held
T = TypeVar("T", Verdict, Trace, Summary)


def digest(*contents: bytes) -> str:
    """A short name for what a run read."""
    return hashlib.sha256(b"".join(contents)).hexdigest()[:12]


def memory_contents(memories: Sequence[Memory]) -> dict[str, str]:
    """A setting for every trained memory: what its parameters are."""
    leaves = {memory.name: jax.tree.leaves(memory.params) for memory in memories}
    return {f"{CONTENTS}{k}": digest(*(np.asarray(leaf).tobytes() for leaf in v)) for k, v in leaves.items() if v}


def task_contents(tasks: Iterable[str]) -> dict[str, str]:
    """A setting for every task that is a file of one's own: what it holds."""
    own = [task for task in tasks if task.endswith(".jsonl") and Path(task).is_file()]
    return {f"{CONTENTS}{task}": digest(Path(task).read_bytes()) for task in own}


def check_settings(
    folder: Path,
    settings: Mapping[str, Any],
    name: str = SETTINGS,
    results: Sequence[str] = (VERDICTS, TABLE),
    more: Sequence[str] = (),
    option: str = "--folder",
) -> None:
    """ValueError, naming the field, where the folder holds a run with other settings or something else.

    name: the file of the settings, without which there must be none of the `results` either. more: fields of which
    there may now be more than before: lists that hold the old one's items, and larger numbers; with them may come
    contents that the folder has not seen. option: names the folder on the command line.
    """
    path = folder / name
    if not path.is_file():
        if found := [one for one in results if (folder / one).exists()]:
            raise ValueError(f"folder: {folder} has {found[0]} but no {name}: it is another run's; choose another")
        return
    before, now = json.loads(path.read_text()), json.loads(json.dumps(settings))
    for field in more:
        old, new = before.get(field), now[field]
        lists = isinstance(new, list) and isinstance(old, list) and old != new and set(old) <= set(new)
        if lists or (isinstance(new, int) and isinstance(old, int) and old < new):
            before = {key: now[key] for key in now if key.startswith(CONTENTS)} | before | {field: new}
    check_same(before, settings, path, option)


def check_same(
    before: Mapping[str, Any], settings: Mapping[str, Any], path: Path, option: str = "--folder"
) -> None:
    """ValueError, naming the field, where `before`, which a file holds, and settings differ."""
    now = json.loads(json.dumps(settings))
    for field in (*now, *before):
        if before.get(field) != now.get(field):
            raise ValueError(
                f"{field}: {path} has {before.get(field)!r}, got {now.get(field)!r}; a run resumes with the "
                f"settings that it began with. Choose another {option} for others"
            )


def claim(folder: Path, config: Any) -> None:
    """Note the settings beside the checkpoints; ValueError where those are of a run with others (another seed, say)."""
    free = ("output", "checkpoints", "save_every")
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in free}
    steps = [path.name for path in folder.glob("[0-9]*")]
    check_settings(folder, settings, CLAIM, steps, option="--checkpoints")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / CLAIM, json.dumps(settings, indent=2) + "\n")


def finished(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the folder's table has all that is asked for; ValueError, naming the field, where it cannot go on so."""
    check_settings(folder, settings, more=("memory", "budget", "prompts"))
    whole = json.loads(json.dumps(settings))
    return (folder / TABLE).is_file() and json.loads((folder / SETTINGS).read_text()) == whole


class Records:
    """Verdicts and traces in a folder. Traces are written before verdicts, which make them count."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TABLE).unlink(missing_ok=True)  # where there is one, it has fewer answers
        write_whole(folder / SETTINGS, json.dumps(settings, indent=2) + "\n")
        self.folder = folder
        self.verdicts = read_verdicts(folder)
        self.traces = read_traces(folder)

    def missing(self, length: int, entries: Sequence[str], order: Sequence[int]) -> dict[tuple[str, ...], list[int]]:
        """Prompts of a length in the order of answering, by the entries that have yet to answer them."""
        answered = {(v.entry, v.index) for v in self.verdicts if v.length == length}
        found: dict[tuple[str, ...], list[int]] = {}
        for index in order:
            if lacking := tuple(entry for entry in entries if (entry, index) not in answered):
                found.setdefault(lacking, []).append(index)
        return found

    def rewrite(self, lengths: Sequence[int], entries: Sequence[str], order: Sequence[int]) -> None:
        """Bring the files to what counts, in the order of lengths, of answering and of entries."""
        length, entry, prompt = ({one: n for n, one in enumerate(all_)} for all_ in (lengths, entries, order))
        self.verdicts.sort(key=lambda v: (length[v.length], prompt[v.index], entry[v.entry]))
        self.traces = sorted(together(self.traces), key=lambda t: (length[t.length], prompt[t.index]))
        write_records(self.folder, self.verdicts, self.traces)

    def append(self, verdicts: Sequence[Verdict], traces: Sequence[Trace]) -> None:
        """Add what an entry answered, on disk at once."""
        for name, added in ((TRACES, traces), (VERDICTS, verdicts)):
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(_lines(added))
        self.verdicts += verdicts
        self.traces += traces


def write_records(folder: Path, verdicts: Sequence[Verdict], traces: Sequence[Trace]) -> None:
    """Write verdicts.jsonl (one entry and prompt a line) and traces.jsonl (one prompt a line) from nothing."""
    write_whole(folder / TRACES, _lines(traces))
    write_whole(folder / VERDICTS, _lines(verdicts))


def read_verdicts(folder: Path) -> list[Verdict]:
    """The verdicts of a folder, [] where there are none; a torn last line is dropped."""

    def exact(row: dict[str, Any]) -> Verdict:
        return Verdict(**{**row, "answers": tuple(row["answers"]), "held": tuple(map(tuple, row["held"]))})

    return _read(folder / VERDICTS, Verdict, exact)


def read_traces(folder: Path) -> list[Trace]:
    """The traces of a folder, one a mode and prompt, [] where there are none; a torn last line is dropped."""

    def exact(row: dict[str, Any]) -> Trace:
        return Trace(**{**row, **{name: tuple(row[name]) for name in ("tokens", "answers", "facts", "shape")}})

    return together(_read(folder / TRACES, Trace, exact))


def read_table(folder: Path) -> list[Summary]:
    """The rows of a finished comparison's table."""
    return [_checked(folder / TABLE, Summary, lambda row: Summary(**row), row) for row in _json(folder / TABLE)]


def _json(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not found; expected the folder of a finished `namm evaluate` or `namm evolve` "
            "(the same command again finishes it)"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def _read(path: Path, kind: type[T], build: Callable[[dict[str, Any]], T]) -> list[T]:
    return [_checked(path, kind, build, row) for row in complete_lines(path)]


def _checked(path: Path, kind: type[T], build: Callable[[dict[str, Any]], T], row: dict[str, Any]) -> T:
    fields = {field.name for field in dataclasses.fields(kind)}
    if set(row) != fields:
        unknown, missing = sorted(set(row) - fields), sorted(fields - set(row))
        raise ValueError(f"{path}: unknown fields {unknown}, missing fields {missing}; run the comparison again")
    return build(row)


def _lines(records: Sequence[Verdict] | Sequence[Trace]) -> str:
    return "".join(json.dumps(dataclasses.asdict(one), ensure_ascii=False) + "\n" for one in records)


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there complete or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
