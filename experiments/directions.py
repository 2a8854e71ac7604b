"""Which way a search may move a memory with many sets of parameters: each by itself, many alike, or budgets alone."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from namm.config import ScorerConfig

DirectionName = Literal["own", "layer", "shared", "budgets"]


@dataclass(frozen=True)
class Directions:
    """What the search's numbers do to the parameters that it starts from.

    name: "own" = they are the parameters. "layer" and "shared" = a change of the score's linear part that all heads of
    a layer, or all heads, have in common: 13 numbers, say, in place of 1,170. "budgets" = what is added to the shares
    that layers or heads have in the budget, the score as it is. start: the parameters, set axes first.
    """

    name: DirectionName
    scorer: ScorerConfig
    start: PyTree

    @property
    def origin(self) -> PyTree:
        """The numbers that stand for the start itself."""
        if self.name == "own":
            return self.start
        if self.name == "budgets":
            return jnp.zeros_like(self._part)
        sets, alike = self.scorer.sets, 1 if self.name == "layer" else 0
        shape = sets[:alike] + (1,) * (len(sets) - alike)
        return jax.tree.map(lambda x: jnp.zeros((*shape, *x.shape[len(sets) :])), self._part)

    @property
    def _part(self) -> PyTree:
        """What changes of the parameters."""
        return self.start["budgets"] if self.name == "budgets" else self.start["params"]["score"]

    def parameters(self, numbers: PyTree) -> PyTree:
        """Of the search's numbers, or of a population of them (a leading axis)."""
        if self.name == "own":
            return numbers
        moved = jax.tree.map(jnp.add, self._part, numbers)
        after, before = (jax.tree.leaves(tree)[0] for tree in (moved, self._part))
        leading = after.shape[: after.ndim - before.ndim]
        whole = jax.tree.map(lambda x: jnp.broadcast_to(x, (*leading, *x.shape)), self.start)
        if self.name == "budgets":
            return {**whole, "budgets": moved}
        return {**whole, "params": {**whole["params"], "score": moved}}
