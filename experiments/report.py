"""Records to tables and plots: rich on the screen, CSV and JSON lines on disk, PNG curves."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from experiments.evaluate import Summary, Verdict


def write_tables(summaries: Sequence[Summary], verdicts: Sequence[Verdict], folder: Path) -> None:
    """Write table.csv, table.json and verdicts.jsonl (one prompt and memory a line) to `folder`."""
    rows = [asdict(summary) for summary in summaries]
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (folder / "table.json").write_text(json.dumps(rows, indent=2) + "\n")
    lines = (json.dumps(asdict(verdict), ensure_ascii=False) for verdict in verdicts)
    (folder / "verdicts.jsonl").write_text("\n".join(lines) + "\n")


def rich_table(summaries: Sequence[Summary]) -> Table:
    """Best first within a mode. "lead" is how far the reference stands above a row, paired by prompt."""
    table = Table(title="Score with 95% intervals; lead = reference minus this row, paired by prompt")
    for name in ("memory", "mode", "prompts"):
        table.add_column(name)
    for name in ("score", "lead", "kept", "cache", "state", "seconds"):
        table.add_column(name, justify="right")
    for s in sorted(summaries, key=lambda s: (s.mode, -s.score)):
        lead = f"{s.difference:+.3f} [{s.difference_low:+.3f}, {s.difference_high:+.3f}]"
        score = f"{s.score:.3f} [{s.low:.3f}, {s.high:.3f}]"
        sizes = (size(s.cache_bytes), size(s.state_bytes))
        table.add_row(s.memory, s.mode, str(s.prompts), score, lead, f"{s.kept:.1%}", *sizes, f"{s.seconds:.1f}")
    return table


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def stream_table(rows: Sequence[dict[str, Any]]) -> Table:
    """One row a memory from the lines of a stream: perplexity of all tokens and of its best and worst line."""
    table = Table(title="Perplexity of all tokens, of the best and the worst 1,000; least and most memory resident")
    table.add_column("memory")
    for name in ("tokens", "perplexity", "best", "worst", "cache", "resident", "tokens/s"):
        table.add_column(name, justify="right")
    for memory, lines in _by_memory(rows).items():
        tokens = np.array([line["tokens"] for line in lines])
        each = np.array([line["perplexity"] for line in lines])
        total = float(np.exp(np.average(np.log(each), weights=np.diff(tokens, prepend=0))))
        resident = [line["resident_bytes"] for line in lines]
        speed = float(np.median([line["tokens_per_second"] for line in lines]))
        row = [f"{tokens[-1]:,}", f"{total:.2f}", f"{each.min():.2f}", f"{each.max():.2f}"]
        row += [size(lines[-1]["cache_bytes"]), f"{size(min(resident))} - {size(max(resident))}", f"{speed:.0f}"]
        table.add_row(memory, *row)
    return table


def draw_stream(rows: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Perplexity and resident memory over the tokens of a stream, one line a memory."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    perplexity, resident = figure.subplots(2, 1, sharex=True)
    for memory, lines in _by_memory(rows).items():
        tokens = [line["tokens"] for line in lines]
        perplexity.plot(tokens, [line["perplexity"] for line in lines], label=memory)
        resident.plot(tokens, [line["resident_bytes"] / 2**20 for line in lines], label=memory)
    perplexity.set_yscale("log")
    perplexity.set_ylabel("perplexity of 1,000 tokens")
    resident.set_ylim(bottom=0)
    resident.set_ylabel("resident memory (MiB)")
    resident.set_xlabel("tokens read")
    for axis in (perplexity, resident):
        axis.grid(alpha=0.3)
        axis.legend()
    perplexity.set_title(title)
    figure.savefig(path, dpi=120)


def _by_memory(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    names = dict.fromkeys(row["memory"] for row in rows)
    return {name: [row for row in rows if row["memory"] == name] for name in names}


def draw_curves(history: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Fitness of the population, score of the validated mean and step size, over generations."""
    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    fitness, score, sigma = figure.subplots(3, 1, sharex=True)
    _line(fitness, history, "best_fitness", "best of population")
    _line(fitness, history, "mean_fitness", "mean of population")
    _line(score, history, "validation_exact", "validation, mean of search", marker="o")
    _line(score, history, "validation_full_exact", "full cache", linestyle="--")
    _line(sigma, history, "sigma", "step size")
    fitness.set_ylabel("fitness")
    score.set_ylabel("exact match")
    score.set_ylim(-0.02, 1.02)
    sigma.set_ylabel("sigma")
    sigma.set_xlabel("generation")
    for axis in (fitness, score, sigma):
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    fitness.set_title(title)
    figure.savefig(path, dpi=120)


def _line(axis: Any, history: Sequence[dict[str, Any]], name: str, label: str, **style: Any) -> None:
    points = [(row["generation"], row[name]) for row in history if row.get(name) is not None]
    if points:
        axis.plot(*zip(*points, strict=True), label=label, **style)
