"""`namm report`: an evaluation or a search as one page that needs no network, and its figures as PNG."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from experiments.figures import draw_depths, draw_heads, draw_scores, draw_times
from experiments.leaderboard import write_leaderboard
from experiments.published.matching import comparisons
from experiments.records import RUN, SETTINGS, read_table, read_traces, read_verdicts
from experiments.references import TITLE, read_references
from experiments.report import signed, size, tasks_side_by_side
from experiments.scatter import PLOT, by_setting, scatters
from experiments.summary import LengthRow, Summary, TaskRow, Verdict, by_length, by_task
from experiments.tasks.facts import places
from experiments.trace import Trace
from experiments.views import DepthGrid, Setting, depth_grids, head_shares


def write_report(folder: Path) -> Path:
    """Write report.html and scores.png, heads.png, depths.png, times.png (where there is something) beside the records.

    Where all tasks of RULER were asked, the folder kvpress too (see `experiments.leaderboard`).
    FileNotFoundError where the folder holds no finished comparison.
    """
    table, verdicts, traces = read_table(folder), read_verdicts(folder), read_traces(folder)
    draw_scores(table, folder / "scores.png")
    shares, grids = head_shares(verdicts), depth_grids(verdicts)
    draw_heads(shares, folder / "heads.png")
    if grids:
        draw_depths(grids, folder / "depths.png")
    if live := [trace for trace in traces if trace.over]:
        draw_times(live[0], folder / "times.png")
    write_leaderboard(verdicts, _settings(folder)["host"], folder)
    path = folder / "report.html"
    path.write_text(_render(folder, table, verdicts, traces, shares, grids), encoding="utf-8")
    return path


def _render(
    folder: Path,
    table: Sequence[Summary],
    verdicts: Sequence[Verdict],
    traces: Sequence[Trace],
    shares: Mapping[tuple[Setting, str], np.ndarray],
    grids: Sequence[DepthGrid],
) -> str:
    tasks = by_task(verdicts)
    uneven = {key: share for key, share in shares.items() if np.ptp(share) > 1e-9}
    curves = folder / "curves.png"
    return fill(
        "report.html",
        title=folder.resolve().name,
        facts=_facts(folder, verdicts),
        table=by_setting(table),
        reference=table[0].memory,
        tasks=_task_table(tasks),
        lengths=_length_table(by_length(tasks)),
        references=read_references(folder),
        references_title=TITLE,
        comparisons=comparisons(tasks, table[0].memory),
        plot=PLOT,
        scatters=list(scatters(by_setting(table))),
        uneven=[(entry, *setting, share) for (setting, entry), share in uneven.items()],
        even=_alike({key: share for key, share in shares.items() if key not in uneven}),
        top=max((float(share.max()) for share in uneven.values()), default=1.0),
        grids=grids,
        curves=base64.b64encode(curves.read_bytes()).decode() if curves.is_file() else None,
        traced=bool(traces),
        data=Markup(embed(token_data(traces, verdicts))),
        script=Markup(_template("report.js")),
    )


def fill(template: str, **values: Any) -> str:
    """A page of `experiments.templates` with its values and the style that all pages share."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"size": size, "percent": lambda x: f"{x:.1%}"}
    environment.globals["signed"] = signed
    return environment.from_string(_template(template)).render(style=Markup(_template("report.css")), **values)


def _template(name: str) -> str:
    return (files("experiments.templates") / name).read_text(encoding="utf-8")


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
                    {
                        "name": name,
                        "bits": trace.kept[name],
                        "over": trace.over.get(name),
                        "score": v.score,
                        "answer": v.prediction,
                        "kept": v.kept,
                    }
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
    run = folder / RUN
    return json.loads((folder / SETTINGS if not run.is_file() else run).read_text(encoding="utf-8"))


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
