"""What rock, paper, scissors is worth without a language model, on the same rounds, beside every evaluation of it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.prompts import PromptSource
from experiments.records import write_whole
from experiments.tasks import Sample, Split
from experiments.tasks.rock_paper_scissors import RPS, reference_rates

REFERENCES = "references.json"
TITLE = "Rock, paper, scissors without a language model: share of wins on the same rounds"


@dataclass(frozen=True)
class Reference:
    """Win rates of `reference_rates` on a task's prompts at one length; task "mean" is the mean over several."""

    length: int
    task: str
    prompts: int
    rates: dict[str, float]


def write_references(folder: Path, sources: Sequence[PromptSource], split: Split, prompts: int) -> None:
    """Write references.json for the first prompts of a split from every source; nothing without an rps/ task."""
    found = [row for source in sources for row in _references(source, split, prompts)]
    if found:
        write_whole(folder / REFERENCES, json.dumps([asdict(row) for row in found], indent=2) + "\n")


def read_references(folder: Path) -> list[Reference]:
    """What was written, [] where the evaluation has no rps/ task."""
    path = folder / REFERENCES
    return [Reference(**row) for row in json.loads(path.read_text())] if path.is_file() else []


def print_references(console: Console, folder: Path) -> None:
    """The table, where there is one."""
    if rows := read_references(folder):
        table = Table(title=TITLE)
        table.add_column("task")
        for name in ("length", "prompts", *rows[0].rates):
            table.add_column(name, justify="right")
        for row in rows:
            table.add_row(row.task, str(row.length), str(row.prompts), *(f"{x:.3f}" for x in row.rates.values()))
        console.print(table)


def _references(source: PromptSource, split: Split, prompts: int) -> list[Reference]:
    samples: dict[str, list[Sample]] = {}
    names = [task.name for task in source.tasks]
    for index in range(prompts):
        if (name := names[index % len(names)]) in {player.name for player in RPS}:
            samples.setdefault(name, []).append(source.prompt(split, index).sample)
    length = source.mix.length
    rows = [Reference(length, task, len(found), reference_rates(found)) for task, found in samples.items()]
    if len(rows) > 1:
        mean = {name: float(np.mean([row.rates[name] for row in rows])) for name in rows[0].rates}
        rows.append(Reference(length, "mean", sum(row.prompts for row in rows), mean))
    return rows
