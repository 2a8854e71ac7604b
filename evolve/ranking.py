"""From raw fitness to rank weights: higher is better, ties share, failures rank last."""

import numpy as np
from jaxtyping import Float


def share_ties(fitness: Float[np.ndarray, " pop"], weights: Float[np.ndarray, " pop"]) -> Float[np.ndarray, " pop"]:
    """The weight of each member, from weights listed best rank first.

    Tied members share the mean of the weights of the ranks that they occupy, so sums over the population do not
    depend on ties. (Averaging the *ranks* and looking up one weight, the usual way, loses weight: an all-tied
    generation then shrinks the step size.) Members without a finite fitness tie for the last ranks.
    """
    ranked = np.where(np.isfinite(fitness), fitness, -np.inf)
    order = np.argsort(-ranked, kind="stable")
    groups, counts = np.unique(-ranked, return_inverse=True, return_counts=True)[1:]
    sums = np.zeros(counts.size)
    np.add.at(sums, groups[order], weights)
    return (sums / counts)[groups]
