"""LM-MA-ES against its algorithm written out with loops and matrices, and on a function of low rank."""

import math

import jax
import numpy as np
import pytest

from evolve.lmma import ask_lmma, init_lmma, lmma_constants, tell_lmma

RNG = np.random.default_rng()


def test_updates_equal_the_algorithm_written_out() -> None:
    """Explicit factors, each member's z by a linear solve, one number at a time (arXiv 1705.06693, algorithm 1)."""
    dim, population, sigma = 40, 8, 0.4
    k, mean = lmma_constants(dim, population), RNG.normal(size=dim)
    state = init_lmma(mean, sigma, k)
    mu, m = population // 2, 4 + math.floor(3 * math.log(dim))
    raw = [math.log(mu + 0.5) - math.log(i + 1) for i in range(mu)]
    w = [x / sum(raw) for x in raw]
    mu_w = 1 / sum(x * x for x in w)
    c_sigma = 2 * population / dim
    path, vectors = np.zeros(dim), [np.zeros(dim) for _ in range(m)]
    for generation in range(m + 4):
        key = jax.random.fold_in(jax.random.key(5), generation)
        members = ask_lmma(key, state, population, k)
        matrix = np.eye(dim)
        for i in range(min(generation, m)):
            c = 1 / (1.5**i * dim)
            matrix = ((1 - c) * np.eye(dim) + c * np.outer(vectors[i], vectors[i])) @ matrix
        drawn = np.random.default_rng(np.asarray(jax.random.key_data(key))).standard_normal((population, dim))
        np.testing.assert_allclose(members, mean + sigma * drawn @ matrix.T, rtol=1e-9)
        fitness = RNG.normal(size=population)
        state = tell_lmma(members, fitness, state, k)
        best = np.argsort(-fitness)[:mu]
        z = sum(w[i] * drawn[best[i]] for i in range(mu))
        mean = mean + sigma * matrix @ z
        path = (1 - c_sigma) * path + math.sqrt(mu_w * c_sigma * (2 - c_sigma)) * z
        for i in range(m):
            c = population / (4**i * dim)
            vectors[i] = (1 - c) * vectors[i] + math.sqrt(mu_w * c * (2 - c)) * z
        sigma = sigma * math.exp(c_sigma / 2 * (path @ path / dim - 1))
        np.testing.assert_allclose(state.mean, mean, rtol=1e-8)
        np.testing.assert_allclose(state.vectors, vectors, rtol=1e-7, atol=1e-12)
        assert float(state.sigma) == pytest.approx(sigma, rel=1e-9)


def test_learns_a_direction() -> None:
    """On a narrow ridge in a random direction, members come to spread along the ridge."""
    dim, population = 100, 16
    ridge = RNG.normal(size=dim)
    ridge /= np.linalg.norm(ridge)
    k = lmma_constants(dim, population)
    state = init_lmma(np.zeros(dim), 0.1, k)
    for generation in range(300):
        members = ask_lmma(jax.random.fold_in(jax.random.key(1), generation), state, population, k)
        along = members @ ridge
        across = (members**2).sum(1) - along**2
        state = tell_lmma(members, along - 100 * across, state, k)
    spread = ask_lmma(jax.random.key(2), state, 2000, k) - state.mean
    assert (spread @ ridge).std() > 2 * spread.std()
