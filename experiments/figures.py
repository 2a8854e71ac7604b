"""Figures as PNG: the curves of a search, score against bytes, what heads keep and when, score by depth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from experiments.report import lines_by_memory, size
from experiments.summary import Summary
from experiments.trace import Trace, unpack_counts
from experiments.views import DepthGrid, Setting


def draw_scores(table: Sequence[Summary], path: Path) -> None:
    """Score with its interval against the bytes that keys, values and carried state take; one panel a setting.

    The budgets of a memory are joined by a line.
    """
    settings = list(dict.fromkeys((s.mode, s.length) for s in table))
    figure, panels = panels_of(len(settings), (5.5, 4.5))
    for panel, (mode, length) in zip(panels, settings, strict=True):
        panel.set_prop_cycle(color=colormaps["tab20"].colors)  # pyright: ignore[reportAttributeAccessIssue]
        here = [s for s in table if (s.mode, s.length) == (mode, length)]
        for memory in dict.fromkeys(s.memory for s in here):
            rows = sorted((s for s in here if s.memory == memory), key=lambda s: s.cache_bytes)
            scores = np.array([s.score for s in rows])
            error = [scores - [s.low for s in rows], [s.high for s in rows] - scores]
            taken = [s.cache_bytes + s.state_bytes for s in rows]
            panel.errorbar(taken, scores, error, fmt="o-", linewidth=0.8, capsize=2, label=memory)
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: size(int(x))))
        panel.set(title=f"{mode}, {length} tokens", xlabel="cache and state", ylabel="score", ylim=(-0.03, 1.03))
        panel.grid(alpha=0.3)
        panel.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=120)


def draw_heads(shares: Mapping[tuple[Setting, str], np.ndarray], path: Path) -> None:
    """Kept share of every layer and head; one panel an entry and setting."""
    figure, panels = panels_of(len(shares), (4.5, 2.2))
    top = max(float(share.max()) for share in shares.values())
    for panel, (((mode, length), entry), share) in zip(panels, shares.items(), strict=True):
        image = panel.imshow(share.T, vmin=0, vmax=top, aspect="auto", cmap="Blues")
        panel.set_title(f"{entry}, {mode}, {length} tokens", fontsize="small")
        panel.set(xlabel="layer", ylabel="head", yticks=range(share.shape[1]))
        figure.colorbar(image, ax=panel, format="{x:.0%}")
    figure.savefig(path, dpi=120)


def draw_depths(grids: Sequence[DepthGrid], path: Path) -> None:
    """Mean score by prompt length and depth of the answer; one panel an entry."""
    figure, panels = panels_of(len(grids), (3.2, 3.2))
    for panel, grid in zip(panels, grids, strict=True):
        image = panel.imshow(grid.scores, vmin=0, vmax=1, aspect="auto", cmap="Blues")
        figure.colorbar(image, ax=panel)
        panel.set_facecolor("0.8")  # where no answer stood
        panel.set_title(f"{grid.entry}, {grid.mode}", fontsize="small")
        panel.set_xticks(range(len(grid.lengths)), list(map(str, grid.lengths)))
        panel.set_yticks(range(len(grid.scores)), grid.labels, fontsize="x-small")
        panel.set(xlabel="length", ylabel="depth")
    figure.savefig(path, dpi=120)


def draw_times(trace: Trace, path: Path) -> None:
    """Share of the tokens read so far that every layer and head holds, after each update; one panel an entry."""
    figure, panels = panels_of(len(trace.over), (4.5, 2.6))
    for panel, (entry, packed) in zip(panels, trace.over.items(), strict=True):
        read, held = unpack_counts(packed, trace.shape)
        share = (held / read).reshape(-1, len(read))
        edges = np.concatenate([[0], read])
        image = panel.pcolormesh(edges, np.arange(len(share) + 1) / trace.shape[1], share, vmin=0, vmax=1, cmap="Blues")
        panel.invert_yaxis()
        panel.set_title(f"{entry}, {trace.task} {trace.index}", fontsize="small")
        panel.set(xlabel="tokens read", ylabel="layer (its heads below)")
        figure.colorbar(image, ax=panel, format="{x:.0%}")
    figure.savefig(path, dpi=120)


def grid(rows: int, columns: int, each: tuple[float, float]) -> tuple[Figure, np.ndarray]:
    """A figure of rows x columns panels; `each`: inches, width and height."""
    figure = Figure(figsize=(each[0] * columns, each[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def panels_of(count: int, each: tuple[float, float]) -> tuple[Figure, list[Any]]:
    """A figure of so many panels, three in a row; `each`: inches, width and height."""
    columns = min(count, 3)
    figure, table = grid(-(-count // columns), columns, each)
    panels = list(table.flat)
    for spare in panels[count:]:
        spare.remove()
    return figure, panels[:count]


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


def draw_searches(rows: Sequence[Any], path: Path) -> None:
    """Validation score over evaluations, mean and range over seeds; one panel a variant, the first one in each.

    rows: `experiments.searches.SearchRow`.
    """
    names = list(dict.fromkeys(row.variant for row in rows))
    figure, panels = panels_of(len(names), (3.6, 2.8))
    low, high = (pick(value for row in rows for _, value in row.curve) for pick in (min, max))
    for panel, name in zip(panels, names, strict=True):
        for shown, colour in dict.fromkeys([(names[0], "0.6"), (name, "tab:blue")]):
            curves = [dict(row.curve) for row in rows if row.variant == shown]
            at = sorted(set.intersection(*(set(curve) for curve in curves)))
            values = np.array([[curve[n] for n in at] for curve in curves])
            panel.plot(at, values.mean(0), color=colour, label=shown)
            panel.fill_between(at, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
        panel.set(title=name, xlabel="evaluations", ylim=(low - 0.05, high + 0.05))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("validation score")
    figure.savefig(path, dpi=120)


def draw_stream(rows: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Perplexity and resident memory over the tokens of a stream, one line a memory."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    perplexity, resident = figure.subplots(2, 1, sharex=True)
    for memory, lines in lines_by_memory(rows).items():
        tokens = [line["tokens"] for line in lines]
        perplexity.plot(tokens, [line["perplexity"] for line in lines], label=memory)
        resident.plot(tokens, [line["resident_bytes"] / 2**20 for line in lines], label=memory)
    perplexity.set_yscale("log")
    perplexity.set_ylabel("perplexity of 1,000 tokens")
    resident.set_ylim(0, 1.2 * max(line["resident_bytes"] for line in rows) / 2**20)
    resident.set_ylabel("resident memory (MiB)")
    resident.set_xlabel("tokens read")
    for axis in (perplexity, resident):
        axis.grid(alpha=0.3)
        axis.legend()
    perplexity.set_title(title)
    figure.savefig(path, dpi=120)
