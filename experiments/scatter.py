"""Score against bytes as the page draws it: where points, lines and labels stand, in SVG units."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.summary import Summary
from experiments.views import Setting

PLOT = {"left": 34.0, "top": 12.0, "width": 160.0, "height": 280.0, "labels": 210.0}
LABEL_GAP = 15.0  # so that names do not overlap


def by_setting(table: Sequence[Summary]) -> dict[Setting, list[Summary]]:
    """Rows of every mode and length, best first."""
    settings = dict.fromkeys((s.mode, s.length) for s in table)
    best = sorted(table, key=lambda s: -s.score)
    return {setting: [s for s in best if (s.mode, s.length) == setting] for setting in settings}


def scatters(table: Mapping[Setting, Sequence[Summary]]) -> Iterator[dict[str, Any]]:
    """Ticks, and a line with its points and label a memory, of score against bytes; one figure a setting."""
    for (mode, length), rows in table.items():
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
