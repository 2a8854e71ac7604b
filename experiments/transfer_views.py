"""What `namm transfer` shows: a table in Markdown, score against memory, which steps stayed, a page of it all."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.markdown import Markdown

from experiments.figures import grid, panels_of
from experiments.page import fill
from experiments.played import Task
from experiments.report import signed, size
from experiments.summary import WHOLE
from experiments.transfer_rows import Record, TransferRow

TABLE, SCORES, KEPT, PAGE = "transfer.md", "transfer.png", "timesteps.png", "transfer.html"
HEADER = ("memory", "budget", "score", "change from full", "lead over it", "kept", "cue kept", "cache + state")


def write_views(
    folder: Path,
    rows: Sequence[TransferRow],
    records: Sequence[Record],
    tasks: Sequence[Task],
    hosts: Mapping[str, Any],
    refused: Mapping[str, str],
    console: Console,
) -> None:
    """Write and print the table, draw both figures, write the page."""
    units = {task.name: task.unit for task in tasks}
    text = markdown(rows, units, refused)
    (folder / TABLE).write_text(text, encoding="utf-8")
    draw_scores(rows, folder / SCORES)
    if traced := [one for one in records if one["kept"] is not None]:
        draw_steps(traced, {task.name: task for task in tasks}, folder / KEPT)
    write_page(folder, rows, refused, bool(traced), shown_steps(traced, tasks, hosts, rows))
    console.print(Markdown(text))
    console.print(f"Records, table, figures and {PAGE} are in {folder}")


def header(rows: Sequence[TransferRow]) -> tuple[str, ...]:
    """The names of a task's columns: HEADER, then the parts of its score."""
    return (*HEADER, *(rows[0].parts or ()))


def cells(row: TransferRow) -> tuple[str, ...]:
    """A row as text, under its header."""
    score = f"{row.score:.3g} [{row.low:.3g}, {row.high:.3g}]"
    cue = "" if row.cue_kept is None else f"{row.cue_kept:.0%}"
    taken = f"{size(row.cache_bytes)} + {size(row.state_bytes)}"
    differences = signed(*row.change), signed(*row.lead)
    parts = (f"{part:.3f}" for part in (row.parts or {}).values())
    return row.memory, row.budget, score, *differences, f"{row.kept:.1%}", cue, taken, *parts


def by_task(rows: Sequence[TransferRow]) -> dict[str, list[TransferRow]]:
    """The rows of each task: the references, then budget by budget, the best first."""
    found = {name: [row for row in rows if row.task == name] for name in dict.fromkeys(row.task for row in rows)}
    budgets = list(dict.fromkeys(row.budget for row in rows))
    return {k: sorted(v, key=lambda row: (budgets.index(row.budget), -row.score)) for k, v in found.items()}


def markdown(rows: Sequence[TransferRow], units: Mapping[str, str], refused: Mapping[str, str]) -> str:
    """One table a task, and what could not serve. units: what a task is played in."""
    parts = []
    for task, here in by_task(rows).items():
        parts.append(f"## {task} ({here[0].episodes} {units[task]} of {here[0].steps:.0f} steps on average)\n")
        lines = [header(here), ("---",) * len(header(here)), *map(cells, here)]
        parts.append("".join(f"| {' | '.join(line)} |\n" for line in lines))
    if refused:
        parts.append("Not served:\n\n" + "".join(f"- `{name}`: {reason}\n" for name, reason in refused.items()))
    return "\n".join(parts)


def draw_scores(rows: Sequence[TransferRow], path: Path) -> None:
    """Score with its interval at every budget, one panel a task; the full context and context 1 as lines across."""
    groups = by_task(rows)
    figure, panels = panels_of(len(groups), (4.6, 4.8))
    for panel, (task, here) in zip(panels, groups.items(), strict=True):
        panel.set_prop_cycle(color=colormaps["tab20"].colors)  # pyright: ignore[reportAttributeAccessIssue]
        budgets = list(dict.fromkeys(row.budget for row in rows if row.budget != WHOLE))
        whole = list(dict.fromkeys(row.memory for row in rows if row.budget == WHOLE))
        for row in [row for row in here if row.budget == WHOLE]:
            style = ("-", "--", ":")[whole.index(row.memory)]
            panel.axhline(row.score, color="0.4", linestyle=style, linewidth=1, label=row.memory)
        names = list(dict.fromkeys(row.memory for row in rows if row.budget != WHOLE))
        for place, name in enumerate(names):
            mine = [row for row in here if row.memory == name and row.budget != WHOLE]
            at = np.array([budgets.index(row.budget) for row in mine]) + 0.6 * (place / len(names) - 0.5)
            scores = np.array([row.score for row in mine])
            error = [scores - [row.low for row in mine], [row.high for row in mine] - scores]
            bold = {"color": "black", "markersize": 7, "zorder": 3} if place == 0 else {"markersize": 4}
            panel.errorbar(at, scores, error, fmt="o", linewidth=0.9, capsize=2, label=name, **bold)
        panel.set_xticks(range(len(budgets)), budgets)
        panel.set(title=task.replace("@", "\n@"), xlabel="budget (share of the longest context)", ylabel="score")
        panel.grid(alpha=0.3, axis="y")
    figure.legend(*panels[-1].get_legend_handles_labels(), fontsize="x-small", loc="outside right center")
    figure.savefig(path, dpi=120)


def first_seeds(records: Sequence[Record]) -> list[Record]:
    """Those of the first recorded seed of each task."""
    first = {task: min(one["seed"] for one in records if one["task"] == task) for task in _names(records, "task")}
    return [one for one in records if one["seed"] == first[one["task"]] and one["budget"] != WHOLE]


def draw_steps(records: Sequence[Record], of: Mapping[str, Task], path: Path) -> None:
    """Kept share of every step at the end, a line an entry, one panel a task and budget; a dashed line at the cue."""
    shown = first_seeds(records)
    tasks, budgets = _names(shown, "task"), _names(shown, "budget")
    figure, panels = grid(len(tasks), len(budgets), (5.2, 3.4))
    for line, task in zip(panels, tasks, strict=True):
        for panel, budget in zip(line, budgets, strict=True):
            here = [one for one in shown if (one["task"], one["budget"]) == (task, budget)]
            share = np.full((len(here), max(one["steps"] for one in here)), np.nan)
            for place, one in enumerate(here):
                share[place, : one["steps"]] = of[task].by_step(one["kept"])
            image = panel.imshow(share, aspect="auto", vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
            panel.set_yticks(range(len(here)), [one["memory"] for one in here], fontsize="xx-small")
            panel.set_title(f"{task}, budget {budget}", fontsize="small")
            panel.set_xlabel(of[task].step)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            if here[0]["cue"] is not None:
                panel.axvline(here[0]["cue"], color="tab:red", linestyle="--", linewidth=1)
            figure.colorbar(image, ax=panel, format="{x:.0%}")
    figure.savefig(path, dpi=110)


def _names(records: Sequence[Record], field: str) -> list[str]:
    return list(dict.fromkeys(one[field] for one in records))


def shown_steps(
    records: Sequence[Record], tasks: Sequence[Task], hosts: Mapping[str, Any], rows: Sequence[TransferRow]
) -> dict[str, list[dict[str, object]]]:
    """For each task to be looked at: every step's image or text, what the memory kept of it, whether it is the cue.

    kept: share of layers and heads by budget.
    """
    memory = next((row.memory for row in rows if row.budget != WHOLE), None)
    shown = [one for one in first_seeds(records) if one["memory"] == memory]
    found: dict[str, list[dict[str, object]]] = {}
    for task in tasks:
        here = [one for one in shown if one["task"] == task.name]
        if not here:
            continue
        host, seed = hosts[task.host], here[0]["seed"]
        images = [{"png": base64.b64encode(image).decode()} for image in task.images(host, seed)]
        looks = images or [{"text": text} for text in task.words(host, seed)]
        kept = {one["budget"]: task.by_step(one["kept"]) for one in here}
        steps = [
            {**look, "kept": {budget: float(share[i]) for budget, share in kept.items()}, "cue": i == here[0]["cue"]}
            for i, look in enumerate(looks)
        ]
        if steps:
            found[task.name] = steps
    return found


def write_page(
    folder: Path,
    rows: Sequence[TransferRow],
    refused: Mapping[str, str],
    traced: bool,
    steps: Mapping[str, Sequence[Mapping[str, object]]],
) -> None:
    """One HTML file that needs no network."""
    shown = [SCORES, KEPT] if traced else [SCORES]
    page = fill(
        "transfer.html",
        title=folder.resolve().name,
        tables={task: (header(here), [cells(row) for row in here]) for task, here in by_task(rows).items()},
        refused=refused,
        figures=[base64.b64encode((folder / name).read_bytes()).decode() for name in shown],
        steps=steps,
    )
    (folder / PAGE).write_text(page, encoding="utf-8")
