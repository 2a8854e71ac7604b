"""Which published figures may stand beside an evaluation, and which of its own rows beside them.

A published figure is a mean over certain tasks; it is shown where the evaluation has any of them, beside the mean over
those that it has. Only scores are shown, no speeds and ratios. Models, prompts and protocols differ: every figure keeps
its model and setting. Figures over lengths stand beside the closest of our lengths alone, means over lengths nowhere.
"""

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.published import Published, published
from experiments.summary import WHOLE, TaskRow
from experiments.tasks.longbench import LONGBENCH
from experiments.tasks.rock_paper_scissors import RPS
from experiments.tasks.ruler import RULER

SCORES = ("score %", "accuracy %", "win %", "micro F1 %")
QA = ("longbench/qasper", "longbench/2wikimqa", "longbench/hotpotqa")
TASKS = {
    "RULER": tuple(task.name for task in RULER),
    "LongBench": tuple(task.name for task in LONGBENCH),
    "Rock Paper Scissors": tuple(task.name for task in RPS),
    "Grocery Shopping": ("grocery",),
    "DailyDialog": ("dialogue",),
    "Qasper, 2WikiMQA, HotpotQA; 70 prompts": QA,
}


@dataclass(frozen=True)
class Comparison:
    """Published figures that are means over `tasks`, and our own rows: means over those that the evaluation `has`."""

    benchmark: str
    tasks: tuple[str, ...]
    has: tuple[str, ...]
    own: tuple[TaskRow, ...]
    figures: tuple[Published, ...]


def tasks_of(figure: Published) -> tuple[str, ...]:
    """The tasks that a figure is a mean over, () where it is no score or of a benchmark that is not here."""
    tasks = TASKS.get(figure.benchmark, ()) if figure.metric in SCORES else ()
    subset = f"longbench/{figure.setting.split(',')[0]}"
    return (subset,) if figure.benchmark == "LongBench" and subset in tasks else tasks


def length_of(figure: Published) -> int | None:
    """The length in tokens that a setting begins with ("4K, ..."), None where it names none."""
    found = re.match(r"(\d+)K\b", figure.setting)
    return int(found[1]) * 1024 if found else None


def comparisons(rows: Sequence[TaskRow], reference: str) -> list[Comparison]:
    """What stands side by side, by benchmark and tasks; [] where nothing matches.

    rows: from `by_task`. Of our own entries the full cache, the reference and those with the name of a published system
    are given.
    """
    evaluated = {row.task for row in rows}
    groups: dict[tuple[str, tuple[str, ...]], list[Published]] = {}
    for figure in published():
        if evaluated & set(tasks := tasks_of(figure)):
            groups.setdefault((figure.benchmark, tasks), []).append(figure)
    found = []
    for (benchmark, tasks), figures in groups.items():
        if benchmark == "RULER":
            figures = list(_at_closest(figures, {row.length for row in rows if row.task in tasks}))
        names = {reference, *(figure.system for figure in figures)}
        has = tuple(task for task in tasks if task in evaluated)
        found.append(Comparison(benchmark, tasks, has, tuple(_own(rows, has, names)), tuple(figures)))
    return found


def _at_closest(figures: Sequence[Published], lengths: Collection[int]) -> Iterator[Published]:
    known = {length for figure in figures if (length := length_of(figure))}
    closest = {min(known, key=lambda other: abs(math.log(other / length))) for length in lengths}
    return (figure for figure in figures if length_of(figure) in closest)


def _own(rows: Sequence[TaskRow], tasks: Collection[str], names: Collection[str]) -> Iterator[TaskRow]:
    groups: dict[tuple[str, str, str, int], list[TaskRow]] = {}
    for row in rows:
        if row.task in tasks and (row.budget == WHOLE or row.memory in names):
            groups.setdefault((row.memory, row.budget, row.mode, row.length), []).append(row)
    for key, parts in groups.items():
        score = float(np.mean([row.score for row in parts]))
        yield TaskRow(*key, "mean", sum(row.prompts for row in parts), score)
