"""A finished evaluation as folders that the kvpress leaderboard reads (RULER alone: its only benchmark).

One folder a memory, budget, mode and length that has answered all 13 tasks, named like kvpress's own results:
dataset__length__model__press__ratio, `fraction` where fewer than its 6,500 prompts were asked, and our budget. In each
- config.yaml: a subset of the fields of kvpress's evaluation config, since the leaderboard refuses unknown ones;
- metrics.json: {task: {"string_match": percent}}, tasks without "ruler/"; the leaderboard shows their plain mean;
- predictions.csv: task, answer (a JSON list), predicted_answer and compression_ratio of every prompt. kvpress's files
  also have the question, its answer prefix and token limit, which our records do not hold and the leaderboard ignores.
Read in kvpress 0.4.1's `evaluation/evaluate.py` and the leaderboard's `src/data.py`; no code is taken from them.

Policies have kvpress's names where it has them, in recorded mode: that is its protocol, eviction after the whole
context. Everything else has its own name and the mode's. compression_ratio is the share of the context that was
dropped, as measured. The leaderboard leaves out folders with `fraction` below 1 and models other than the two that it
lists.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from experiments.summary import WHOLE, Verdict
from experiments.tasks.ruler import RULER

FOLDER = "kvpress"
PREFIX = "ruler/"
TASKS = tuple(task.name for task in RULER)
PROMPTS = 6500  # of kvpress's RULER at one length
COLUMNS = ("task", "answer", "predicted_answer", "compression_ratio")

NO_PRESS = "no_press"

# What kvpress calls the policies that both have.
PRESSES = {
    "key-norm": "knorm",
    "keydiff": "keydiff",
    "snapkv": "snapkv",
    "streaming-llm": "streaming_llm",
    "tova": "tova",
    "h2o": "observed_attention",
    "lagkv": "lagkv",
    "expected-attention": "expected_attention",
    "random": "random",
}


def write_leaderboard(verdicts: Sequence[Verdict], host: str, folder: Path) -> list[Path]:
    """Write `folder`/kvpress/NAME for whatever has answered all RULER tasks; the folders, [] where nothing has."""
    groups: dict[tuple[str, str, str, int], list[Verdict]] = {}
    for v in verdicts:
        if v.task in TASKS:
            groups.setdefault((v.memory, v.budget, v.mode, v.length), []).append(v)
    whole = [found for found in groups.values() if {v.task for v in found} == set(TASKS)]
    return [_write(found, host, folder / FOLDER) for found in whole]


def _write(verdicts: Sequence[Verdict], host: str, folder: Path) -> Path:
    first = verdicts[0]
    press, ratio = _press(first), float(np.mean([1 - v.kept for v in verdicts]))
    fraction = min(1.0, len(verdicts) / PROMPTS)
    config = {
        "dataset": "ruler",
        "data_dir": str(first.length),
        "model": host,
        "device": None,
        "press_name": press,
        "compression_ratio": round(ratio, 4),
        "fraction": fraction,
        "query_aware": any(v.question == "shown" for v in verdicts),
        "press_init_command": f"namm: {first.entry}, {first.mode}",
    }
    parts = ["ruler", str(first.length), host.replace("/", "--"), press, f"{ratio:.2f}"]
    if fraction < 1:
        parts.append(f"fraction{fraction:.3f}")
    if first.budget != WHOLE:  # two budgets may come to one ratio
        parts.append(f"budget{first.budget.replace('%', 'percent')}")
    own = folder / "__".join(parts)
    own.mkdir(parents=True, exist_ok=True)
    (own / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    (own / "metrics.json").write_text(json.dumps(_metrics(verdicts), indent=4) + "\n", encoding="utf-8")
    with (own / "predictions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for v in verdicts:
            answer = json.dumps(v.answers, ensure_ascii=False)
            writer.writerow((v.task.removeprefix(PREFIX), answer, v.prediction, 1 - v.kept))
    return own


def _press(verdict: Verdict) -> str:
    """kvpress's name in recorded mode; a name that says so where tokens are dropped while the context is read."""
    if verdict.budget == WHOLE:
        return NO_PRESS
    if verdict.mode == "recorded" and verdict.memory in PRESSES:
        return PRESSES[verdict.memory]
    return f"{verdict.memory}_{verdict.mode}".replace("/", "--")


def _metrics(verdicts: Sequence[Verdict]) -> dict[str, dict[str, float]]:
    """Percent a task, in kvpress's order (alphabetic) and with its two decimals."""
    return {
        task.removeprefix(PREFIX): {
            "string_match": round(100 * float(np.mean([v.score for v in verdicts if v.task == task])), 2)
        }
        for task in sorted(TASKS)
    }
