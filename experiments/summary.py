"""What an evaluation found: one verdict a memory and prompt, and the tables that are made of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import bootstrap

# RULER (arXiv 2404.06654, section 4): the score of Llama2-7B (chat) at 4K, which an effective length must exceed.
RULER_THRESHOLD = 0.856
WHOLE = "full"  # the budget of the full cache
Difference = tuple[float, float, float] | tuple[None, None, None]  # mean, low, high
NONE = (None, None, None)


@dataclass(frozen=True)
class Verdict:
    """One memory at one budget on one prompt.

    budget: as it was given, a share in percent ("25%"), tokens ("1024") or "own" for the memory's own threshold; "full"
    for the full cache. length: of the task mix, in tokens. question: "hidden" where the memory compresses the context
    before it meets the question (query-agnostic), "shown" where the question is part of what it compresses (a task
    without a separate one). depth: where in the context the only answer stands (0 = start, 1 = end), None where there
    are several or it is not there word for word. kept: share of the context's `tokens` that stayed, mean over layers
    and heads. held: kept tokens in every layer and KV head. seconds: the prompt's share of its batch's time,
    compilation included.
    """

    memory: str
    budget: str
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

    @property
    def entry(self) -> str:
        """The memory and its budget."""
        return entry_name(self.memory, self.budget)


def entry_name(memory: str, budget: str) -> str:
    """How a memory at a budget, as verdicts have it, is called."""
    return memory if budget == WHOLE else f"{memory} {budget}"


@dataclass(frozen=True)
class Summary:
    """One row of the table, its differences paired by prompt. Intervals are 95% percentile bootstraps.

    change: this row minus the full cache, None where that was not run. lead: the reference memory at the same budget
    minus this row, None for the full cache, which has no budget.
    """

    memory: str
    budget: str
    mode: str
    length: int
    prompts: int
    score: float
    low: float
    high: float
    change: float | None
    change_low: float | None
    change_high: float | None
    lead: float | None
    lead_low: float | None
    lead_high: float | None
    kept: float
    cache_bytes: int
    state_bytes: int
    seconds: float


@dataclass(frozen=True)
class TaskRow:
    """Mean score of a memory on one task at one length; task "mean" is the mean over tasks, each counting alike."""

    memory: str
    budget: str
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
    budget: str
    mode: str
    scores: tuple[tuple[int, float], ...]
    effective: int | None
    mean: float
    increasing: float
    decreasing: float


def summarise(
    verdicts: Sequence[Verdict], slot_bytes: Mapping[str, tuple[int, int]], reference: str
) -> list[Summary]:
    """One row a length, memory and budget, in order of appearance.

    slot_bytes: per memory, bytes of cache and of carried state that one token takes in all layers.
    """
    groups: dict[tuple[int, str, str], list[Verdict]] = {}
    for v in verdicts:
        groups.setdefault((v.length, v.memory, v.budget), []).append(v)
    scores = {key: np.array([v.score for v in found]) for key, found in groups.items()}
    full = {length: score for (length, _, budget), score in scores.items() if budget == WHOLE}
    rows = []
    for length in dict.fromkeys(v.length for v in verdicts):
        for key in (key for key in groups if key[0] == length):
            change = paired(scores[key], full.get(length))
            lead = paired(scores.get((length, reference, key[2])), scores[key])
            rows.append(_summary(groups[key], slot_bytes[key[1]], change, lead if key[2] != WHOLE else NONE))
    return rows


def paired(scores: np.ndarray | None, less: np.ndarray | None) -> Difference:
    """Mean of the difference, and its interval."""
    if scores is None or less is None:
        return NONE
    return float((scores - less).mean()), *interval(scores - less)


def _summary(verdicts: list[Verdict], slot_bytes: tuple[int, int], change: Difference, lead: Difference) -> Summary:
    scores = np.array([v.score for v in verdicts])
    tokens = float(np.mean([v.kept * v.tokens for v in verdicts]))
    low, high = interval(scores)
    return Summary(
        memory=verdicts[0].memory,
        budget=verdicts[0].budget,
        mode=verdicts[0].mode,
        length=verdicts[0].length,
        prompts=len(verdicts),
        score=float(scores.mean()),
        low=low,
        high=high,
        change=change[0],
        change_low=change[1],
        change_high=change[2],
        lead=lead[0],
        lead_low=lead[1],
        lead_high=lead[2],
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
    groups: dict[tuple[str, str, str, int], dict[str, list[float]]] = {}
    for v in verdicts:
        groups.setdefault((v.memory, v.budget, v.mode, v.length), {}).setdefault(v.task, []).append(v.score)
    rows = []
    for key, tasks in groups.items():
        means = {task: float(np.mean(scores)) for task, scores in tasks.items()}
        rows += [TaskRow(*key, task, len(tasks[task]), mean) for task, mean in means.items()]
        rows.append(TaskRow(*key, "mean", sum(map(len, tasks.values())), float(np.mean(list(means.values())))))
    return rows


def by_length(tasks: Iterable[TaskRow]) -> list[LengthRow]:
    """Every memory over the lengths; `tasks` comes from `by_task`."""
    groups: dict[tuple[str, str, str], dict[int, float]] = {}
    for row in tasks:
        if row.task == "mean":
            groups.setdefault((row.memory, row.budget, row.mode), {})[row.length] = row.score
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
