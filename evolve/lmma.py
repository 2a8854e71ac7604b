"""Limited-memory matrix adaptation (LM-MA-ES): a covariance of low rank, in float64 on the host.

A member is mean + sigma * P_m ... P_1 z with P_i = (1 - c_d,i) I + c_d,i m_i m_i^T: each of the m = 4 + 3 ln n
vectors m_i is a path of steps with a horizon of its own. O(m n) a member. Equations: Loshchilov, Glasmachers and Beyer,
"Large Scale Black-box Optimization by Limited-Memory Matrix Adaptation" (arXiv 1705.06693), algorithm 1. Rates that
would pass 1 where members outnumber parameters are 1.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from evolve.ranking import share_ties


@dataclass(frozen=True)
class LmmaConstants:
    """Learning rates and recombination weights, best member first in `weights`; c_d and c_c have one per vector."""

    weights: Float[np.ndarray, " pop"]
    c_sigma: float
    c_d: Float[np.ndarray, " vector"]
    c_c: Float[np.ndarray, " vector"]


class LmmaState(NamedTuple):
    """Everything that the next generation depends on."""

    mean: np.ndarray
    sigma: np.ndarray
    path: np.ndarray
    vectors: np.ndarray
    generation: np.ndarray


def lmma_constants(dim: int, population: int) -> LmmaConstants:
    """Default constants for `dim` parameters (algorithm 1, line 2)."""
    parents = population // 2
    weights = np.zeros(population)
    weights[:parents] = math.log(parents + 0.5) - np.log(np.arange(1, parents + 1))
    order = np.arange(4 + math.floor(3 * math.log(dim)))
    return LmmaConstants(
        weights=weights / weights.sum(),
        c_sigma=min(1.0, 2 * population / dim),
        c_d=1 / (1.5**order * dim),
        c_c=np.minimum(1.0, population / (4.0**order * dim)),
    )


def init_lmma(mean: Float[np.ndarray, " dim"], sigma: float, constants: LmmaConstants) -> LmmaState:
    """A round distribution with standard deviation `sigma` about `mean`."""
    vectors = np.zeros((constants.c_d.size, mean.size))
    return LmmaState(
        mean.astype(np.float64), np.float64(sigma) * np.ones(()), np.zeros(mean.size), vectors, np.zeros((), np.int64)
    )


def ask_lmma(
    key: jax.Array, state: LmmaState, population: int, constants: LmmaConstants
) -> Float[np.ndarray, "pop dim"]:
    """Draw `population` members (lines 6 to 12)."""
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    steps = generator.standard_normal((population, state.mean.size))
    for c, vector in _factors(state, constants):
        steps = (1 - c) * steps + c * np.outer(steps @ vector, vector)
    return state.mean + state.sigma * steps


def tell_lmma(
    members: Float[np.ndarray, "pop dim"], fitness: Float[np.ndarray, " pop"], state: LmmaState, k: LmmaConstants
) -> LmmaState:
    """One update of mean, vectors and step size (lines 13 to 17); fitness is maximised, tied members share weights."""
    weights = share_ties(fitness, k.weights)
    mu_eff = 1 / np.sum(weights**2)
    steps = (members - state.mean) / state.sigma
    white = weights @ steps  # the weighted mean of z: the factors are linear, so that of the steps is taken back
    for c, vector in reversed(_factors(state, k)):
        white = (white - c * vector * (vector @ white) / (1 - c + c * vector @ vector)) / (1 - c)
    path = (1 - k.c_sigma) * state.path + math.sqrt(mu_eff * k.c_sigma * (2 - k.c_sigma)) * white
    rates = np.sqrt(mu_eff * k.c_c * (2 - k.c_c))
    vectors = (1 - k.c_c)[:, None] * state.vectors + np.outer(rates, white)
    return LmmaState(
        mean=state.mean + state.sigma * (weights @ steps),
        sigma=np.asarray(state.sigma * np.exp(k.c_sigma / 2 * (path @ path / path.size - 1))),
        path=path,
        vectors=vectors,
        generation=state.generation + 1,
    )


def _factors(state: LmmaState, k: LmmaConstants) -> list[tuple[float, np.ndarray]]:
    """The factors in the order in which they act on z; a vector counts once a generation has gone into it."""
    used = min(int(state.generation), k.c_d.size)
    return [(float(k.c_d[i]), state.vectors[i]) for i in range(used)]
