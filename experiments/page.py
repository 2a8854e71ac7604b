"""`namm report`: an evaluation or a search as one page that needs no network, and its figures as PNG."""

import base64
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from experiments.figures import draw_depths, draw_heads, draw_scores
from experiments.leaderboard import write_leaderboard
from experiments.published.matching import comparisons
from experiments.records import SETTINGS, read_table, read_traces, read_verdicts
from experiments.references import TITLE, read_references
from experiments.report import signed, size, tasks_side_by_side
from experiments.summary import LengthRow, Summary, TaskRow, Verdict, by_length, by_task
from experiments.tasks.facts import places
from experiments.trace import Trace
from experiments.views import DepthGrid, Setting, depth_grids, head_shares

PLOT = {"left": 34.0, "top": 12.0, "width": 160.0, "height": 280.0, "labels": 210.0}  # of the scatter, in SVG units
LABEL_GAP = 15.0  # so that names do not overlap


def write_report(folder: Path) -> Path:
    """Write report.html, scores.png, heads.png and depths.png (where answers have one) beside the records.

    Where all tasks of RULER were asked, the folder kvpress too (see `experiments.leaderboard`).
    FileNotFoundError where the folder holds no finished comparison.
    """
    table, verdicts = read_table(folder), read_verdicts(folder)
    draw_scores(table, folder / "scores.png")
    shares, grids = head_shares(verdicts), depth_grids(verdicts)
    draw_heads(shares, folder / "heads.png")
    if grids:
        draw_depths(grids, folder / "depths.png")
    write_leaderboard(verdicts, _settings(folder)["host"], folder)
    path = folder / "report.html"
    path.write_text(_render(folder, table, verdicts, shares, grids), encoding="utf-8")
    return path


def _render(
    folder: Path,
    table: Sequence[Summary],
    verdicts: Sequence[Verdict],
    shares: Mapping[tuple[Setting, str], np.ndarray],
    grids: Sequence[DepthGrid],
) -> str:
    traces = read_traces(folder)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"size": size, "percent": lambda x: f"{x:.1%}"}
    environment.globals["signed"] = signed
    part = files("experiments.templates")
    tasks = by_task(verdicts)
    uneven = {key: share for key, share in shares.items() if np.ptp(share) > 1e-9}
    curves = folder / "curves.png"
    return environment.from_string((part / "report.html").read_text(encoding="utf-8")).render(
        title=folder.resolve().name,
        facts=_facts(folder, verdicts),
        table=_by_setting(table),
        reference=table[0].memory,
        tasks=_task_table(tasks),
        lengths=_length_table(by_length(tasks)),
        references=read_references(folder),
        references_title=TITLE,
        comparisons=comparisons(tasks, table[0].memory),
        plot=PLOT,
        scatters=list(_scatters(table)),
        uneven=[(entry, *setting, share) for (setting, entry), share in uneven.items()],
        even=_alike({key: share for key, share in shares.items() if key not in uneven}),
        top=max((float(share.max()) for share in uneven.values()), default=1.0),
        grids=grids,
        curves=base64.b64encode(curves.read_bytes()).decode() if curves.is_file() else None,
        traced=bool(traces),
        data=Markup(embed(token_data(traces, verdicts))),
        style=Markup((part / "report.css").read_text(encoding="utf-8")),
        script=Markup((part / "report.js").read_text(encoding="utf-8")),
    )


def token_data(traces: Sequence[Trace], verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """What the page's script shows: prompts token by token, with every entry's packed bits, score and answer."""
    found = {(v.mode, v.length, v.index, v.entry): v for v in verdicts}
    prompts = []
    for trace in traces:
        own = {name: found[trace.mode, trace.length, trace.index, name] for name in trace.kept}
        prompts.append(
            {
                "name": f"{trace.task} {trace.index}, {trace.length} tokens, {trace.mode}",
                "shape": trace.shape,
                "tokens": trace.tokens,
                "question": trace.question,
                "answers": trace.answers,
                "marks": list(marks(trace)),
                "memories": [
                    {"name": name, "bits": trace.kept[name], "score": v.score, "answer": v.prediction, "kept": v.kept}
                    for name, v in own.items()
                ],
            }
        )
    return prompts


def embed(value: Any) -> str:
    """JSON that can stand inside a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def marks(trace: Trace) -> Iterator[tuple[int, int]]:
    """First and last token (exclusive) of every place where an answer stands as a fact."""
    text = "".join(trace.tokens)
    ends = np.cumsum([len(token) for token in trace.tokens])
    for answer in trace.facts:
        for begin in places(text, answer):
            last = int(np.searchsorted(ends, begin + len(answer) - 1, side="right"))
            yield int(np.searchsorted(ends, begin, side="right")), last + 1


def _facts(folder: Path, verdicts: Sequence[Verdict]) -> dict[str, str]:
    """Settings worth a line."""
    questions = sorted({v.question for v in verdicts})
    return {
        "host": _settings(folder)["host"],
        "tasks": ", ".join(dict.fromkeys(v.task for v in verdicts)),
        "split": ", ".join(dict.fromkeys(v.split for v in verdicts)),
        "budget": ", ".join(dict.fromkeys(v.budget for v in verdicts)),
        "question": " and ".join(f"{q} {'from' if q == 'hidden' else 'to'} the memory" for q in questions),
    }


def _settings(folder: Path) -> dict[str, Any]:
    """An evaluation's or a run's own file."""
    run = folder / "run.json"
    return json.loads((folder / SETTINGS if not run.is_file() else run).read_text(encoding="utf-8"))


def _by_setting(table: Sequence[Summary]) -> dict[Setting, list[Summary]]:
    """Rows of every mode and length, best first."""
    settings = dict.fromkeys((s.mode, s.length) for s in table)
    best = sorted(table, key=lambda s: -s.score)
    return {setting: [s for s in best if (s.mode, s.length) == setting] for setting in settings}


def _alike(shares: Mapping[tuple[Setting, str], np.ndarray]) -> dict[tuple[str, int, str], list[str]]:
    """Entries whose heads all keep the same share, by mode, length and that share."""
    groups: dict[tuple[str, int, str], list[str]] = {}
    for (setting, entry), share in shares.items():
        groups.setdefault((*setting, f"{share.mean():.1%}"), []).append(entry)
    return groups


def _task_table(rows: Sequence[TaskRow]) -> dict[str, Any] | None:
    names, lines = tasks_side_by_side(rows)
    return {"names": names, "lines": lines} if len(names) > 2 else None  # one task and its mean say the same


def _length_table(rows: Sequence[LengthRow]) -> dict[str, Any] | None:
    lengths = sorted({length for row in rows for length, _ in row.scores})
    return {"lengths": lengths, "rows": sorted(rows, key=lambda r: -r.mean)} if len(lengths) > 1 else None


def _scatters(table: Sequence[Summary]) -> Iterator[dict[str, Any]]:
    """Ticks, and a line with its points and label a memory, of score against bytes; one figure a mode and length."""
    for (mode, length), rows in _by_setting(table).items():
        taken = [s.cache_bytes + s.state_bytes for s in rows]
        low, high = math.log2(max(min(taken), 1)) - 0.5, math.log2(max(*taken, 1)) + 0.5
        step = max(1, math.ceil((high - low) / 3))
        ticks = range(math.ceil(low), math.floor(high) + 1, step)

        def place(bits: float) -> float:
            return PLOT["left"] + PLOT["width"] * (bits - low) / (high - low)  # noqa: B023 (used at once)

        points: dict[str, list[dict[str, Any]]] = {}
        for s in sorted(rows, key=lambda s: s.cache_bytes + s.state_bytes):
            b, y = s.cache_bytes + s.state_bytes, PLOT["top"] + PLOT["height"] * (1 - s.score)
            points.setdefault(s.memory, []).append({"x": place(math.log2(max(b, 1))), "y": y, "row": s, "bytes": b})
        lines = sorted(points.items(), key=lambda line: line[1][-1]["y"])
        labels = spread([line[-1]["y"] for _, line in lines], LABEL_GAP, PLOT["top"])
        yield {
            "title": f"{mode}, {length} tokens",
            "ticks": [(place(float(tick)), _round_size(tick)) for tick in ticks],
            "lines": [
                {"name": name, "points": line, "label": at}
                for (name, line), at in zip(lines, labels, strict=True)
            ],
            "height": max(PLOT["top"] + PLOT["height"], labels[-1]) + 40,
        }


def _round_size(bits: int) -> str:
    return f"{2 ** (bits - 20)} MiB" if bits >= 20 else f"{2 ** (bits - 10):g} KiB"


def spread(heights: Sequence[float], gap: float, top: float) -> list[float]:
    """Ascending heights moved apart to at least `gap`, upwards where that leaves room below `top`."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap if placed else top))
    limit = max(heights[-1], top + gap * (len(heights) - 1))
    for i in range(len(placed) - 1, -1, -1):
        placed[i] = min(placed[i], limit - gap * (len(placed) - 1 - i))
    return placed
