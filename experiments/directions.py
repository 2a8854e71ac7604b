"""Which way a search may move a memory that has many sets of parameters: each set by itself, or many sets alike."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from namm.config import ScorerConfig

DirectionName = Literal["own", "layer", "shared"]


@dataclass(frozen=True)
class Directions:
    """What the search's numbers do to the parameters that it starts from.

    name: "own" = they are the parameters. "layer" and "shared" = a change of the score's linear part that all heads of
    a layer, or all heads, have in common: 13 numbers, say, in place of 1,170. start: the parameters, set axes first.
    """

    name: DirectionName
    scorer: ScorerConfig
    start: PyTree

    @property
    def origin(self) -> PyTree:
        """The numbers that stand for the start itself."""
        if self.name == "own":
            return self.start
        sets, alike = self.scorer.sets, 1 if self.name == "layer" else 0
        shape = sets[:alike] + (1,) * (len(sets) - alike)
        return jax.tree.map(lambda x: jnp.zeros((*shape, *x.shape[len(sets) :])), self.start["params"]["score"])

    def parameters(self, numbers: PyTree) -> PyTree:
        """Of the search's numbers, or of a population of them (a leading axis)."""
        if self.name == "own":
            return numbers
        start = self.start["params"]
        score = jax.tree.map(jnp.add, start["score"], numbers)
        leading = score["bias"].shape[: score["bias"].ndim - start["score"]["bias"].ndim]
        whole = jax.tree.map(lambda x: jnp.broadcast_to(x, (*leading, *x.shape)), start)
        return {"params": {**whole, "score": score}}
