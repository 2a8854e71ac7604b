"""What `namm transfer` found: the rows of its table, made of one record an episode and entry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.played import Task
from experiments.summary import NONE, WHOLE, Difference, interval, paired

Record = Mapping[str, Any]  # a line of episodes.jsonl: task, memory, budget and the fields of `Played`


@dataclass(frozen=True)
class TransferRow:
    """One line of the table; intervals are 95% percentile bootstraps over episodes (or clips), differences paired.

    score: mean return, or D4RL's normalised score in percent where the task has reference returns; returned: mean
    return. change: score minus that of the full context. lead: the memory's score at the same budget minus this one's.
    kept: share of the tokens read that stand in the cache at an episode's end; cue_kept: the same of the cue alone.
    cache_bytes, state_bytes: of one episode, at its end. parts: the mean of each part that a return is the mean of.
    """

    task: str
    memory: str
    budget: str
    episodes: int
    score: float
    low: float
    high: float
    returned: float
    change: Difference
    lead: Difference
    kept: float
    cue_kept: float | None
    cache_bytes: int
    state_bytes: int
    steps: float
    seconds: float
    parts: dict[str, float] | None


def summarise(records: Sequence[Record], tasks: Sequence[Task], reference: str) -> list[TransferRow]:
    """A row for every task, memory and budget, in order of appearance; `reference` is what the leads are of."""
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for one in records:
        groups.setdefault((one["task"], one["memory"], one["budget"]), []).append(one)
    scaled = {task.name: task.score for task in tasks}
    scores: dict[tuple[str, str, str], np.ndarray] = {}
    for key, found in groups.items():
        found.sort(key=lambda one: one["seed"])  # so that differences are paired
        scores[key] = np.array([scaled[key[0]](one["returned"]) for one in found])
    rows = []
    for key, found in groups.items():
        change = paired(scores[key], scores.get((key[0], "keep-all", WHOLE)))
        lead = NONE if key[2] == WHOLE else paired(scores.get((key[0], reference, key[2])), scores[key])
        rows.append(_row(key, found, scores[key], change, lead))
    return rows


def _row(
    key: tuple[str, str, str], found: Sequence[Record], scores: np.ndarray, change: Difference, lead: Difference
) -> TransferRow:
    def mean(name: str) -> float:
        return float(np.mean([one[name] for one in found]))

    low, high = interval(scores)
    return TransferRow(
        *key,
        episodes=len(found),
        score=float(scores.mean()),
        low=low,
        high=high,
        returned=mean("returned"),
        change=change,
        lead=lead,
        kept=mean("held"),
        cue_kept=None if found[0]["cue"] is None else mean("cue_kept"),
        cache_bytes=round(mean("cache_bytes")),
        state_bytes=round(mean("state_bytes")),
        steps=mean("steps"),
        seconds=float(sum(one["seconds"] for one in found)),
        parts=_parts(found),
    )


def _parts(found: Sequence[Record]) -> dict[str, float] | None:
    """Every part's mean, over the records that have it."""
    parts: dict[str, list[float]] = {}
    for one in found:
        for name, value in (one.get("parts") or {}).items():
            parts.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in parts.items()} or None
