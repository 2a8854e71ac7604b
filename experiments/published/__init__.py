"""Numbers that others have published, as data: `numbers.csv`, one figure a row.

They are claims under the setting that each row names, never made by this library, and no two papers share a protocol.
`verified` is yes where the figure was read in its source or in a text that quotes it, no where it stands from memory:
show that beside the figure. A metric names its unit.
"""

import csv
import math
from dataclasses import dataclass, fields
from importlib.resources import as_file, files
from pathlib import Path

VERIFIED = {"yes": True, "no": False}


@dataclass(frozen=True)
class Published:
    """One published figure: `system` on `model` got `value` in `metric` on `benchmark` under `setting`."""

    system: str
    model: str
    benchmark: str
    setting: str
    metric: str
    value: float
    source: str
    verified: bool


COLUMNS = [field.name for field in fields(Published)]


def published(path: Path | None = None) -> tuple[Published, ...]:
    """All figures of a table, of the one that ships by default.

    ValueError names file, line and column for other columns than `COLUMNS`, an empty cell, a value that is no finite
    number, a mark other than yes or no, and a figure that an earlier line has already given.
    """
    if path is None:
        with as_file(files("experiments.published") / "numbers.csv") as shipped:
            return published(shipped)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        if (header := next(reader, [])) != COLUMNS:
            raise ValueError(f"{path}, line 1: got columns {header}, expected {COLUMNS}")
        found: dict[tuple[str, ...], Published] = {}
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            figure, key = _figure(cells, where), tuple(cells[:5])
            if key in found:
                raise ValueError(f"{where}: {', '.join(key)} has a value already; keep one of the two lines")
            found[key] = figure
    return tuple(found.values())


def _figure(cells: list[str], where: str) -> Published:
    if len(cells) != len(COLUMNS):
        raise ValueError(f"{where}: got {len(cells)} cells, expected {len(COLUMNS)}; quote cells that hold commas")
    row = dict(zip(COLUMNS, cells, strict=True))
    for column, cell in row.items():
        if not cell or cell != cell.strip():
            raise ValueError(f"{where}: column {column!r}: got {cell!r}, expected a text without spaces around it")
    if row["verified"] not in VERIFIED:
        raise ValueError(f"{where}: column 'verified': got {row['verified']!r}, expected yes or no")
    try:
        value = float(row["value"])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: column 'value': got {row['value']!r}, expected a finite number")
    return Published(
        row["system"],
        row["model"],
        row["benchmark"],
        row["setting"],
        row["metric"],
        value,
        row["source"],
        VERIFIED[row["verified"]],
    )
