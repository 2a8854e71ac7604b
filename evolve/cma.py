"""Full-covariance CMA-ES in float64 on the host, with a lazy eigendecomposition.

The covariance of thousands of parameters changes by less than float32 can hold in one generation, and its
eigendecomposition costs seconds, so this strategy lives in NumPy and decomposes only when enough has changed.
Equations: Hansen, "The CMA Evolution Strategy: A Tutorial" (arXiv 1604.00772v2, 2023), Appendix A.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from evolve.ranking import share_ties


@dataclass(frozen=True)
class CmaConstants:
    """Learning rates and recombination weights (tutorial, table 1), best member first in `weights`."""

    weights: Float[np.ndarray, " pop"]
    mu_eff: float
    c_1: float
    c_mu: float
    c_c: float
    c_sigma: float
    d_sigma: float
    chi: float
    eigen_gap: int  # generations between two eigendecompositions


class CmaState(NamedTuple):
    """Everything that the next generation depends on; 2 n^2 + 4 n float64."""

    mean: np.ndarray
    sigma: np.ndarray
    path_sigma: np.ndarray
    path_c: np.ndarray
    covariance: np.ndarray
    basis: np.ndarray
    scales: np.ndarray
    generation: np.ndarray
    eigen_generation: np.ndarray


def cma_constants(dim: int, population: int) -> CmaConstants:
    """Default constants for `dim` parameters (table 1 of the tutorial, 2023 revision: +1/4 in c_mu)."""
    raw = math.log((population + 1) / 2) - np.log(np.arange(1, population + 1))
    parents = population // 2
    mu_eff = float(raw[:parents].sum() ** 2 / (raw[:parents] ** 2).sum())
    mu_eff_negative = float(raw[parents:].sum() ** 2 / (raw[parents:] ** 2).sum())
    c_1 = 2 / ((dim + 1.3) ** 2 + mu_eff)
    c_mu = min(1 - c_1, 2 * (0.25 + mu_eff + 1 / mu_eff - 2) / ((dim + 2) ** 2 + mu_eff))
    negative_sum = min(
        1 + c_1 / c_mu, 1 + 2 * mu_eff_negative / (mu_eff + 2), max(0.0, (1 - c_1 - c_mu) / (dim * c_mu))
    )
    positive = np.maximum(raw, 0)
    negative = np.minimum(raw, 0)
    c_sigma = (mu_eff + 2) / (dim + mu_eff + 5)
    return CmaConstants(
        weights=positive / positive.sum() + negative_sum * negative / -negative.sum(),
        mu_eff=mu_eff,
        c_1=c_1,
        c_mu=c_mu,
        c_c=(4 + mu_eff / dim) / (dim + 4 + 2 * mu_eff / dim),
        c_sigma=c_sigma,
        d_sigma=1 + 2 * max(0.0, math.sqrt((mu_eff - 1) / (dim + 1)) - 1) + c_sigma,
        chi=math.sqrt(dim) * (1 - 1 / (4 * dim) + 1 / (21 * dim**2)),
        eigen_gap=max(1, math.floor(1 / (10 * dim * (c_1 + c_mu)))),
    )


def init_cma(mean: Float[np.ndarray, " dim"], sigma: float) -> CmaState:
    """A round distribution with standard deviation `sigma` about `mean`."""
    dim = mean.size
    zeros, count = np.zeros(dim), np.zeros((), np.int64)
    return CmaState(
        mean.astype(np.float64), np.float64(sigma) * np.ones(()), zeros, zeros, np.eye(dim), np.eye(dim), np.ones(dim),
        count, count,
    )  # fmt: skip


def ask_cma(key: jax.Array, state: CmaState, population: int) -> Float[np.ndarray, "pop dim"]:
    """Draw `population` members from N(mean, sigma^2 C) (tutorial, equations 38-40)."""
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    normal = generator.standard_normal((population, state.mean.size))
    return state.mean + state.sigma * ((normal * state.scales) @ state.basis.T)


def tell_cma(
    members: Float[np.ndarray, "pop dim"], fitness: Float[np.ndarray, " pop"], state: CmaState, constants: CmaConstants
) -> CmaState:
    """One update of mean, step size and covariance (tutorial, equations 41-47); fitness is maximised.

    Tied members share weights. Where that happens mu_eff is that of the shared weights, so that the length of the
    step-size path, and with it sigma, is unbiased under ties.
    """
    k, dim, generation = constants, state.mean.size, state.generation + 1
    positive = share_ties(fitness, np.maximum(k.weights, 0))
    negative = share_ties(fitness, np.minimum(k.weights, 0))
    mu_eff = 1 / np.sum(positive**2)

    steps = (members - state.mean) / state.sigma
    white = (steps @ state.basis) / state.scales  # rows: C^(-1/2) y in the eigenbasis, where lengths are the same
    step = positive @ steps
    path_sigma = (1 - k.c_sigma) * state.path_sigma
    path_sigma += math.sqrt(k.c_sigma * (2 - k.c_sigma) * mu_eff) * (state.basis @ (positive @ white))
    length = float(np.linalg.norm(path_sigma))
    moving = length / math.sqrt(1 - (1 - k.c_sigma) ** (2 * int(generation))) < (1.4 + 2 / (dim + 1)) * k.chi
    path_c = (1 - k.c_c) * state.path_c + moving * math.sqrt(k.c_c * (2 - k.c_c) * mu_eff) * step

    # A negative weight removes the same amount of variance whatever the member's length (equation 46).
    rank_weights = positive + negative * dim / np.maximum((white**2).sum(axis=1), 1e-20)
    rows = np.concatenate([steps, path_c[None]])
    row_weights = np.append(k.c_mu * rank_weights, k.c_1)
    decay = 1 + k.c_1 * (1 - moving) * k.c_c * (2 - k.c_c) - k.c_1 - k.c_mu * (positive.sum() + negative.sum())
    covariance = (rows.T * row_weights) @ rows
    covariance += decay * state.covariance

    basis, scales, eigen_generation = state.basis, state.scales, state.eigen_generation
    if generation - eigen_generation >= k.eigen_gap:
        basis, scales, eigen_generation = *_decompose(covariance), generation
    return CmaState(
        mean=state.mean + state.sigma * step,
        sigma=np.asarray(state.sigma * np.exp(k.c_sigma / k.d_sigma * (length / k.chi - 1))),
        path_sigma=path_sigma,
        path_c=path_c,
        covariance=covariance,
        basis=basis,
        scales=scales,
        generation=np.asarray(generation),
        eigen_generation=np.asarray(eigen_generation),
    )


def _decompose(covariance: Float[np.ndarray, "dim dim"]) -> tuple[np.ndarray, np.ndarray]:
    values, basis = np.linalg.eigh(covariance)
    # Rounding may push the smallest eigenvalues to zero or below; the floor bounds the condition number.
    return basis, np.sqrt(np.maximum(values, 1e-14 * values[-1]))
