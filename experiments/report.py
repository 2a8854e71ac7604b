"""Records to tables: rich on the screen, CSV and JSON on disk."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from experiments.records import TABLE, write_whole
from experiments.summary import LengthRow, Summary, TaskRow, Verdict, by_length, by_task


def write_tables(summaries: Sequence[Summary], verdicts: Sequence[Verdict], folder: Path) -> None:
    """Write table.csv, tasks.csv (means over tasks too), lengths.csv of a sweep and, last of all, table.json."""
    tasks = by_task(verdicts)
    _write_csv(folder / "table.csv", [asdict(summary) for summary in summaries])
    _write_csv(folder / "tasks.csv", [asdict(row) for row in tasks])
    if len({row.length for row in tasks}) > 1:
        rows = [{k: v for k, v in asdict(row).items() if k != "scores"} | dict(row.scores) for row in by_length(tasks)]
        _write_csv(folder / "lengths.csv", rows)
    write_whole(folder / TABLE, json.dumps([asdict(summary) for summary in summaries], indent=2) + "\n")


def _write_csv(path: Path, rows: Sequence[dict[Any, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def print_tables(console: Console, summaries: Sequence[Summary], verdicts: Sequence[Verdict]) -> None:
    """A table a mode and length; with several tasks one of them, with several lengths what RULER makes of them."""
    console.print("Score, 95% interval; paired by prompt: change = row minus full cache, lead = reference minus row")
    groups: dict[tuple[str, int, int], list[Summary]] = {}
    for summary in sorted(summaries, key=lambda s: (s.mode, s.length)):
        groups.setdefault((summary.mode, summary.length, summary.prompts), []).append(summary)
    for (mode, length, prompts), rows in groups.items():
        console.print(_main_table(f"{mode}, {length} tokens, {prompts} prompts", rows))
    rows = by_task(verdicts)
    if len({row.task for row in rows}) > 2:  # one task and its mean say the same
        for mode, length in sorted({(row.mode, row.length) for row in rows}):
            title = f"{mode}, {length} tokens: mean score by task"
            console.print(_task_table(title, [row for row in rows if (row.mode, row.length) == (mode, length)]))
    if len({row.length for row in rows}) > 1:
        console.print(_length_table(by_length(rows)))


def _task_table(title: str, rows: Sequence[TaskRow]) -> Table:
    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    names, lines = tasks_side_by_side(rows)
    table.add_column("memory")
    for name in ("budget", *names):
        table.add_column(name.removeprefix("ruler/").replace("_", "\n"), justify="right")
    for (memory, budget, *_), scores in lines.items():
        table.add_row(memory, budget, *(f"{scores[name]:.2f}" if name in scores else "" for name in names))
    return table


def tasks_side_by_side(
    rows: Sequence[TaskRow],
) -> tuple[list[str], dict[tuple[str, str, str, int], dict[str, float]]]:
    """Tasks, their mean last, and the score on each by memory, budget, mode and length."""
    names = [task for task in dict.fromkeys(row.task for row in rows) if task != "mean"]
    lines: dict[tuple[str, str, str, int], dict[str, float]] = {}
    for row in rows:
        lines.setdefault((row.memory, row.budget, row.mode, row.length), {})[row.task] = row.score
    return [*names, "mean"], lines


def _length_table(rows: Sequence[LengthRow]) -> Table:
    table = Table(title="Mean over tasks by length; effective length and weighted averages as RULER has them")
    lengths = sorted({length for row in rows for length, _ in row.scores})
    table.add_column("memory")
    for name in ("budget", *map(str, lengths), "effective", "mean", "wAvg inc", "wAvg dec"):
        table.add_column(name, justify="right")
    for row in sorted(rows, key=lambda row: -row.mean):
        figures = (f"{x:.3f}" for x in (row.mean, row.increasing, row.decreasing))
        scores = {length: f"{score:.3f}" for length, score in row.scores}
        effective = str(row.effective) if row.effective else "none"
        table.add_row(row.memory, row.budget, *(scores.get(length, "") for length in lengths), effective, *figures)
    return table


def _main_table(title: str, summaries: Sequence[Summary]) -> Table:
    """Best first (see `Summary` for change and lead)."""
    table = Table(title=title, box=SIMPLE, pad_edge=False)
    table.add_column("memory")
    for name in ("budget", "score", "change", "lead", "kept", "cache", "state", "time"):
        table.add_column(name, justify="right")
    for s in sorted(summaries, key=lambda s: -s.score):
        score = f"{s.score:.3f} [{s.low:.3f}, {s.high:.3f}]"
        differences = (signed(s.change, s.change_low, s.change_high), signed(s.lead, s.lead_low, s.lead_high))
        sizes = (f"{s.kept:.1%}", size(s.cache_bytes), size(s.state_bytes), f"{s.seconds:.0f} s")
        table.add_row(s.memory, s.budget, score, *differences, *sizes)
    return table


def signed(mean: float | None, low: float | None, high: float | None) -> str:
    """A difference with its interval, nothing where there is none."""
    return "" if mean is None else f"{mean:+.3f} [{low:.3f}, {high:.3f}]"


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def stream_table(rows: Sequence[dict[str, Any]]) -> Table:
    """One row a memory from the lines of a stream: perplexity of all tokens, its best and worst line, and by words."""
    table = Table(title="Perplexity of all tokens, of the best and the worst 1,000, and by words; resident memory")
    table.add_column("memory")
    for name in ("tokens", "perplexity", "best", "worst", "by words", "cache", "resident", "tokens/s"):
        table.add_column(name, justify="right")
    for memory, lines in lines_by_memory(rows).items():
        tokens = np.array([line["tokens"] for line in lines])
        each = np.array([line["perplexity"] for line in lines])
        total = float(np.exp(np.average(np.log(each), weights=np.diff(tokens, prepend=0))))
        resident = [line["resident_bytes"] for line in lines]
        speed = float(np.median([line["tokens_per_second"] for line in lines]))
        row = [f"{tokens[-1]:,}", f"{total:.2f}", f"{each.min():.2f}", f"{each.max():.2f}"]
        row.append("".join(f"{x:.2f}" for line in lines if (x := line["word_perplexity"]) is not None))
        row += [size(lines[-1]["cache_bytes"]), f"{size(min(resident))} - {size(max(resident))}", f"{speed:.0f}"]
        table.add_row(memory, *row)
    return table


def lines_by_memory(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The lines of a stream under the memory that read them."""
    names = dict.fromkeys(row["memory"] for row in rows)
    return {name: [row for row in rows if row["memory"] == name] for name in names}
