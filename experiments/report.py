"""Records to tables and plots: rich on the screen, CSV and JSON lines on disk, PNG curves."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

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
