"""Aggregates by hand, and RULER's published figures."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.summary import Verdict, by_length, by_task, length_figures, summarise
from experiments.views import depth_grids, head_shares

VERDICT = Verdict(
    "a", "25%", "streaming", "t", "test", 64, 0, "hidden", 0.5, 1.0, 0.25, 40, 1.0, "x", ("x",), ((10, 10), (5, 15))
)


def test_ruler_averages_of_a_published_model() -> None:
    # Llama-3.1-8B in RULER's table: 4K to 128K, then wAvg 88.3, inc 85.4, dec 91.3 and effective length 32K
    means = {4096 * 2**i: score / 100 for i, score in enumerate((95.5, 93.8, 91.6, 87.4, 84.7, 77.0))}
    shuffled = {length: means[length] for length in np.random.default_rng().permutation(list(means)).tolist()}
    scores, effective, plain, increasing, decreasing = length_figures(shuffled)
    assert scores == tuple(means.items()) and effective == 32768
    assert [round(100 * x, 1) for x in (plain, increasing, decreasing)] == [88.3, 85.4, 91.3]


def test_effective_length_must_exceed_the_threshold() -> None:
    assert length_figures({64: 0.856, 128: 0.3})[1] is None
    assert length_figures({64: 0.2, 128: 0.857})[1] == 128


def test_tasks_count_alike_whatever_their_prompts() -> None:
    scores = {("t", 64): [1.0, 0.0, 0.5], ("u", 64): [1.0], ("t", 128): [0.0]}
    verdicts = [
        replace(VERDICT, task=task, length=length, index=i, score=score)
        for (task, length), found in scores.items()
        for i, score in enumerate(found)
    ]
    rows = {(row.task, row.length): (row.prompts, row.score) for row in by_task(verdicts)}
    assert rows == {
        ("t", 64): (3, 0.5), ("u", 64): (1, 1.0), ("mean", 64): (4, 0.75), ("t", 128): (1, 0.0), ("mean", 128): (1, 0.0)
    }  # fmt: skip
    (row,) = by_length(by_task(verdicts))
    assert (row.mean, row.increasing, row.decreasing, row.effective) == (0.375, 0.25, 0.5, None)


def test_summary_pairs_by_prompt_and_adds_bytes_and_seconds() -> None:
    scores = {
        ("a", "25%"): (1.0, 1.0, 0.0), ("a", "9"): (0.0, 1.0, 0.0), ("b", "25%"): (1.0, 0.0, 0.0),
        ("b", "9"): (0.0, 0.0, 0.0), ("all", "full"): (1.0, 1.0, 1.0),
    }  # fmt: skip
    verdicts = [
        replace(VERDICT, memory=memory, budget=budget, index=i, score=score, length=length)
        for length in (64, 128)
        for (memory, budget), found in scores.items()
        for i, score in enumerate(found)
    ]
    rows = summarise(verdicts, {"a": (100, 7), "b": (100, 0), "all": (100, 0)}, "a")
    assert [(r.memory, r.budget, r.length) for r in rows] == [(*key, n) for n in (64, 128) for key in scores]
    assert (rows[0].lead, rows[0].cache_bytes, rows[0].state_bytes, rows[0].seconds) == (0.0, 1000, 70, 3.0)
    third = pytest.approx(1 / 3)
    assert [row.lead for row in rows[:5]] == [0.0, 0.0, third, third, None]
    assert [row.change for row in rows[:5]] == pytest.approx([-1 / 3, -2 / 3, -2 / 3, -1.0, 0.0])
    assert rows[2].score == third and rows[2].lead_low == 0.0 and rows[2].lead_high == 1.0
    alone = summarise([v for v in verdicts if v.budget == "9"], {"a": (100, 7), "b": (100, 0)}, "b")
    assert [(row.change, row.lead) for row in alone[:2]] == [(None, pytest.approx(-1 / 3)), (None, 0.0)]


def test_views() -> None:
    verdicts = [
        VERDICT,
        replace(VERDICT, index=1, score=0.0, held=((30, 10), (5, 15))),
        replace(VERDICT, index=2, depth=1.0, length=128),
        replace(VERDICT, index=3, depth=None, score=0.0),
    ]
    share = head_shares(verdicts[:2])[("streaming", 64), "a 25%"]
    np.testing.assert_allclose(share, [[0.5, 0.25], [0.125, 0.375]])
    (grid,) = depth_grids(verdicts)
    assert grid.lengths == (64, 128) and np.isfinite(grid.scores).sum() == 2
    assert grid.scores[5, 0] == 0.5 and grid.scores[9, 1] == 1.0
