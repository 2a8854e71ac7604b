"""What an evaluation found: one verdict a memory and prompt, and the tables that are made of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import bootstrap

# RULER (arXiv 2404.06654, section 4): the score of Llama2-7B (chat) at 4K, which an effective length must exceed.
RULER_THRESHOLD = 0.856


@dataclass(frozen=True)
class Verdict:
    """One memory on one prompt.

    length: of the task mix, in tokens. question: "hidden" where the memory compresses the context before it meets the
    question (query-agnostic), "shown" where the question is part of what it compresses (a task without a separate one).
    depth: where in the context the only answer stands (0 = start, 1 = end), None where there are several or it is not
    there word for word. kept: share of the context's `tokens` that stayed, mean over layers and heads. held: kept
    tokens in every layer and KV head. seconds: the prompt's share of its batch's time, compilation included.
    """

    memory: str
    mode: str
    task: str
    split: str
    length: int
    index: int
    question: Literal["hidden", "shown"]
    depth: float | None
    score: float
    kept: float
    tokens: int
    seconds: float
    prediction: str
    answers: tuple[str, ...]
    held: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Summary:
    """One row of the table. Intervals are 95% percentile bootstraps; `difference` is to the reference memory."""

    memory: str
    mode: str
    length: int
    prompts: int
    score: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    kept: float
    cache_bytes: int
    state_bytes: int
    seconds: float


@dataclass(frozen=True)
class TaskRow:
    """Mean score of a memory on one task at one length; task "mean" is the mean over tasks, each counting alike."""

    memory: str
    mode: str
    length: int
    task: str
    prompts: int
    score: float


@dataclass(frozen=True)
class LengthRow:
    """A memory over several lengths: its mean over tasks at each, and RULER's three figures.

    effective: the largest length whose mean exceeds RULER_THRESHOLD, None where none does. increasing, decreasing:
    means weighted linearly by the rank of the length, the longest or the shortest counting most (wAvg inc and dec).
    """

    memory: str
    mode: str
    scores: tuple[tuple[int, float], ...]
    effective: int | None
    mean: float
    increasing: float
    decreasing: float


def summarise(
    verdicts: Sequence[Verdict], slot_bytes: Mapping[str, tuple[int, int]], reference: str
) -> list[Summary]:
    """One row a length and memory, in order of appearance; differences are paired: `reference` minus the memory.

    slot_bytes: per memory, bytes of cache and of carried state that one token takes in all layers.
    """
    rows = []
    for length in dict.fromkeys(v.length for v in verdicts):
        here = [v for v in verdicts if v.length == length]
        base = np.array([v.score for v in here if v.memory == reference])
        for memory in dict.fromkeys(v.memory for v in here):
            rows.append(_summary([v for v in here if v.memory == memory], slot_bytes[memory], base))
    return rows


def _summary(verdicts: list[Verdict], slot_bytes: tuple[int, int], base: np.ndarray) -> Summary:
    scores = np.array([v.score for v in verdicts])
    tokens = float(np.mean([v.kept * v.tokens for v in verdicts]))
    low, high = interval(scores)
    difference_low, difference_high = interval(base - scores)
    return Summary(
        memory=verdicts[0].memory,
        mode=verdicts[0].mode,
        length=verdicts[0].length,
        prompts=len(verdicts),
        score=float(scores.mean()),
        low=low,
        high=high,
        difference=float((base - scores).mean()),
        difference_low=difference_low,
        difference_high=difference_high,
        kept=float(np.mean([v.kept for v in verdicts])),
        cache_bytes=round(tokens * slot_bytes[0]),
        state_bytes=round(tokens * slot_bytes[1]),
        seconds=float(sum(v.seconds for v in verdicts)),
    )


def interval(values: np.ndarray) -> tuple[float, float]:
    """95% percentile bootstrap of the mean; the mean itself where the values are all alike."""
    if len(values) < 2 or np.ptp(values) == 0:
        return float(values.mean()), float(values.mean())
    found: Any = bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(0))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def by_task(verdicts: Iterable[Verdict]) -> list[TaskRow]:
    """Every memory on every task at every length, and its mean over the tasks."""
    groups: dict[tuple[str, str, int], dict[str, list[float]]] = {}
    for v in verdicts:
        groups.setdefault((v.memory, v.mode, v.length), {}).setdefault(v.task, []).append(v.score)
    rows = []
    for key, tasks in groups.items():
        means = {task: float(np.mean(scores)) for task, scores in tasks.items()}
        rows += [TaskRow(*key, task, len(tasks[task]), mean) for task, mean in means.items()]
        rows.append(TaskRow(*key, "mean", sum(map(len, tasks.values())), float(np.mean(list(means.values())))))
    return rows


def by_length(tasks: Iterable[TaskRow]) -> list[LengthRow]:
    """Every memory over the lengths; `tasks` comes from `by_task`."""
    groups: dict[tuple[str, str], dict[int, float]] = {}
    for row in tasks:
        if row.task == "mean":
            groups.setdefault((row.memory, row.mode), {})[row.length] = row.score
    return [LengthRow(*key, *length_figures(means)) for key, means in groups.items()]


def length_figures(
    means: Mapping[int, float],
) -> tuple[tuple[tuple[int, float], ...], int | None, float, float, float]:
    """Scores in order of length, effective length, plain, increasing and decreasing mean (see `LengthRow`)."""
    scores = tuple(sorted(means.items()))
    values = np.array([score for _, score in scores])
    weights = np.arange(1, len(values) + 1)
    effective = max((length for length, score in scores if score > RULER_THRESHOLD), default=None)
    averages = (np.average(values, weights=w) for w in (None, weights, weights[::-1]))
    plain, increasing, decreasing = map(float, averages)
    return scores, effective, plain, increasing, decreasing
