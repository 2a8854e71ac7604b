"""An evaluation on disk: its settings, and verdicts and traces that are appended batch by batch, so that it resumes."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from evolve.tracking import complete_lines
from experiments.summary import Summary, Verdict
from experiments.trace import Trace
from namm.artefact import Memory

SETTINGS, TABLE, VERDICTS, TRACES = "evaluate.json", "table.json", "verdicts.jsonl", "traces.jsonl"
T = TypeVar("T", Verdict, Trace, Summary)


def digest(*contents: bytes) -> str:
    """A short name for what a run read."""
    return hashlib.sha256(b"".join(contents)).hexdigest()[:12]


def memory_contents(memories: Sequence[Memory]) -> dict[str, str]:
    """A setting for every trained memory: what its parameters are."""
    leaves = {memory.name: jax.tree.leaves(memory.params) for memory in memories}
    return {f"contents of {k}": digest(*(np.asarray(leaf).tobytes() for leaf in v)) for k, v in leaves.items() if v}


def check_settings(
    folder: Path, settings: Mapping[str, Any], name: str = SETTINGS, results: Sequence[str] = (VERDICTS, TABLE)
) -> None:
    """ValueError, naming the field, where the folder holds a run with other settings or something else.

    name: the file of the settings, without which there must be none of the `results` either.
    """
    path = folder / name
    if not path.is_file():
        if found := [one for one in results if (folder / one).exists()]:
            raise ValueError(f"folder: {folder} has {found[0]} but no {name}: it is another run's; choose another")
        return
    check_same(json.loads(path.read_text()), settings, path)


def check_same(before: Mapping[str, Any], settings: Mapping[str, Any], path: Path) -> None:
    """ValueError, naming the field, where `before`, which a file holds, and settings differ."""
    now = json.loads(json.dumps(settings))
    for field in (*now, *before):
        if before.get(field) != now.get(field):
            raise ValueError(
                f"{field}: {path} has {before.get(field)!r}, got {now.get(field)!r}; a run resumes with the "
                "settings that it began with. Choose another --folder for others"
            )


class Records:
    """Verdicts and traces in a folder. A batch's traces are written before its verdicts, which make it count."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / SETTINGS, json.dumps(settings, indent=2) + "\n")
        self.folder = folder
        self.verdicts = read_verdicts(folder)
        self.traces = read_traces(folder)

    def done(self, length: int, entries: int, order: Sequence[int], batch: int) -> int:
        """Prompts of a length, in the order of answering, that all entries have answered, in whole batches.

        What lies beyond them is dropped.
        """
        counts = Counter(v.index for v in self.verdicts if v.length == length)
        complete = next((n for n, index in enumerate(order) if counts[index] < entries), len(order))
        done = complete if complete == len(order) else complete // batch * batch
        kept = set(order[:done])
        self.verdicts = [v for v in self.verdicts if v.length != length or v.index in kept]
        self.traces = [t for t in self.traces if t.length != length or t.index in kept]
        return done

    def rewrite(self) -> None:
        """Bring the files to what counts, before more is appended."""
        write_records(self.folder, self.verdicts, self.traces)

    def append(self, verdicts: Sequence[Verdict], traces: Sequence[Trace]) -> None:
        """Add a finished batch, on disk at once."""
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
    """The traces of a folder, [] where there are none; a torn last line is dropped."""

    def exact(row: dict[str, Any]) -> Trace:
        return Trace(**{**row, **{name: tuple(row[name]) for name in ("tokens", "answers", "facts", "shape")}})

    return _read(folder / TRACES, Trace, exact)


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
