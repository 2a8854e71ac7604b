"""Full CMA-ES against pycma: the same constants, the same single updates, the same cost of solving."""

from dataclasses import replace

import cma
import jax
import numpy as np
import pytest
from cma.utilities.math import Mh

from evolve.cma import ask_cma, cma_constants, init_cma, tell_cma


def sphere(x):
    return float(np.sum(x**2))


def ellipsoid(x):
    return float(np.sum(10.0 ** (4 * np.arange(x.size) / (x.size - 1)) * x**2))


def rosenbrock(x):
    return float(np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))


def pycma(start, sigma, population, seed=1):
    options = {"popsize": population, "seed": seed, "verbose": -9, "updatecovwait": 0}
    return cma.CMAEvolutionStrategy(start, sigma, options)


@pytest.mark.parametrize("population", [8, 32])
@pytest.mark.parametrize("dim", [5, 40])
def test_constants_are_those_of_pycma(dim, population):
    ours = cma_constants(dim, population)
    theirs = pycma(np.zeros(dim), 1.0, population)
    np.testing.assert_allclose(ours.weights, theirs.sp.weights, rtol=1e-12)
    np.testing.assert_allclose(ours.mu_eff, theirs.sp.weights.mueff, rtol=1e-12)
    np.testing.assert_allclose([ours.c_1, ours.c_mu], [theirs.sp.c1, theirs.sp.cmu], rtol=1e-12)
    np.testing.assert_allclose(ours.c_c, theirs.sp.cc, rtol=1e-12)


def test_paper_size_constants():
    """n = 4172, population 32: the paper's table, and one eigendecomposition in 24 generations."""
    constants = cma_constants(4172, 32)
    assert constants.mu_eff == pytest.approx(9.179, abs=1e-3)
    assert constants.c_1 == pytest.approx(1.148e-7, rel=1e-3)
    assert constants.c_mu - 0.5 / (4174**2 + constants.mu_eff) == pytest.approx(8.37e-7, rel=1e-3)  # 2016: without 1/4
    assert constants.d_sigma / constants.c_sigma == pytest.approx(375, rel=2e-3)
    assert constants.weights.sum() == pytest.approx(-constants.c_1 / constants.c_mu)  # -0.137 with the 2016 c_mu
    assert constants.eigen_gap == 24


def test_updates_equal_pycma_step_by_step():
    """Given pycma's own members, mean, paths and covariance agree for ten generations."""
    dim, population, rng = 6, 12, np.random.default_rng()
    start = rng.normal(size=dim)
    theirs = pycma(start, 0.5, population, seed=int(rng.integers(1, 10**6)))
    # pycma's step-size constants are not the tutorial's; only here ours are set to them.
    rates = {"c_sigma": theirs.adapt_sigma.cs, "d_sigma": theirs.adapt_sigma.damps, "chi": Mh.chiN(dim)}
    constants = replace(cma_constants(dim, population), eigen_gap=1, **rates)
    # pycma perturbs the initial identity by 1e-4; start from its matrices.
    matrices = {"covariance": theirs.sm.C.copy(), "basis": theirs.sm.B.copy(), "scales": theirs.sm.D.copy()}
    ours = init_cma(start, 0.5)._replace(**matrices)
    for _ in range(10):
        members = np.array(theirs.ask())
        values = [ellipsoid(x) for x in members]
        theirs.tell(list(members), values)
        ours = tell_cma(members, -np.array(values), ours, constants)
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(ours.sigma, theirs.sigma, rtol=1e-9)
        np.testing.assert_allclose(ours.path_c, theirs.pc, rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(ours.covariance, theirs.sm.C, rtol=1e-7, atol=1e-10)


def evaluations_of_ours(function, start, sigma, population, target, seed):
    constants, state = cma_constants(start.size, population), init_cma(start, sigma)
    for generation in range(2000):
        members = ask_cma(jax.random.fold_in(jax.random.key(seed), generation), state, population)
        values = np.array([function(x) for x in members])
        if values.min() < target:
            return (generation + 1) * population
        state = tell_cma(members, -values, state, constants)
    raise AssertionError("target not reached")


def evaluations_of_pycma(function, start, sigma, population, target, seed):
    theirs = pycma(start, sigma, population, seed=seed + 1)
    while True:
        members = theirs.ask()
        values = [function(x) for x in members]
        theirs.tell(members, values)
        if min(values) < target:
            return theirs.countevals


@pytest.mark.parametrize("function", [sphere, ellipsoid, rosenbrock])
def test_solves_at_the_cost_of_pycma(function):
    arguments = (function, np.full(6, 0.5) * (function is not rosenbrock), 0.5, 12, 1e-9)
    ours = np.median([evaluations_of_ours(*arguments, seed) for seed in range(7)])
    theirs = np.median([evaluations_of_pycma(*arguments, seed) for seed in range(7)])
    assert 0.75 < ours / theirs < 1.33


def test_lazy_decomposition_happens_on_schedule_and_stays_consistent():
    dim, population = 10, 8
    constants = replace(cma_constants(dim, population), eigen_gap=4)
    state = init_cma(np.ones(dim), 0.3)
    for generation in range(1, 9):
        members = ask_cma(jax.random.fold_in(jax.random.key(3), generation), state, population)
        state = tell_cma(members, -np.array([ellipsoid(x) for x in members]), state, constants)
        assert state.eigen_generation == generation // 4 * 4
    rebuilt = (state.basis * state.scales**2) @ state.basis.T
    np.testing.assert_allclose(rebuilt, state.covariance, rtol=1e-10, atol=1e-12)
