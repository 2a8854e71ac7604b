"""Verdicts as arrays to look at: what every layer and head keeps, and the score by length and depth of the answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from experiments.summary import Verdict

DEPTHS = 10  # rows of a needle grid
Setting = tuple[str, int]  # mode and length


@dataclass(frozen=True)
class DepthGrid:
    """Mean scores of one entry; NaN where no answer stood. Row 0 is the start of the context."""

    entry: str
    mode: str
    lengths: tuple[int, ...]
    scores: Float[np.ndarray, "depth length"]

    @property
    def labels(self) -> list[str]:
        """What the rows are called."""
        return [f"{100 * row // DEPTHS}-{100 * (row + 1) // DEPTHS}%" for row in range(DEPTHS)]


def head_shares(verdicts: Sequence[Verdict]) -> dict[tuple[Setting, str], Float[np.ndarray, "layer head"]]:
    """Share of the context that every layer and head keeps, mean over prompts; by setting and entry."""
    groups: dict[tuple[Setting, str], list[np.ndarray]] = {}
    for v in verdicts:
        groups.setdefault(((v.mode, v.length), v.entry), []).append(np.array(v.held) / v.tokens)
    return {key: np.mean(shares, axis=0) for key, shares in groups.items()}


def depth_grids(verdicts: Sequence[Verdict]) -> list[DepthGrid]:
    """A grid for every entry and mode, from the verdicts whose answer has a depth."""
    deep = [v for v in verdicts if v.depth is not None]
    grids = []
    for entry, mode in dict.fromkeys((v.entry, v.mode) for v in deep):
        own = [v for v in deep if (v.entry, v.mode) == (entry, mode)]
        lengths = tuple(sorted({v.length for v in own}))
        sums, counts = np.zeros((2, DEPTHS, len(lengths)))
        for v in own:
            place = min(int((v.depth or 0.0) * DEPTHS), DEPTHS - 1), lengths.index(v.length)
            sums[place] += v.score
            counts[place] += 1
        scores = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
        grids.append(DepthGrid(entry, mode, lengths, scores))
    return grids
