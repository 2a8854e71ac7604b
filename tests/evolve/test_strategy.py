"""Laws that hold for every strategy: it climbs, ties and failures do not mislead it, nothing recompiles."""

import logging
import time
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from evolve.ranking import share_ties
from evolve.strategy import Algorithm, SearchConfig, make_strategy

ALGORITHMS = get_args(Algorithm)


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    return {"kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), "bias": jnp.zeros(2)}


def flat(population):
    return np.concatenate([np.asarray(x).reshape(len(x), -1) for x in jax.tree.leaves(population)], axis=1)


def steps(strategy, state, score, generations, seed=0):
    for generation in range(generations):
        population, state = strategy.ask(jax.random.fold_in(jax.random.key(seed), generation), state)
        state, _ = strategy.tell(population, score(flat(population), generation), state)
    return state


def build(algorithm, population=16, sigma=0.3, like=None, **options):
    like = parameters() if like is None else like
    strategy = make_strategy(SearchConfig(algorithm, population, sigma, **options), like)
    return strategy, strategy.init(jax.random.key(0), like)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_climbs(algorithm):
    """The mean gets much closer to the optimum, which only maximisation does."""
    strategy, state = build(algorithm, learning_rate=0.05 if algorithm in ("open-es", "pgpe") else None)

    def distance(state):
        return np.linalg.norm(flat(jax.tree.map(lambda x: x[None], strategy.mean(state))) - 1)

    before = distance(state)
    after = distance(steps(strategy, state, lambda x, _: -((x - 1) ** 2).sum(axis=1), 150))
    assert after < before / 4


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_population_and_mean_have_the_parameters_structure(algorithm):
    strategy, state = build(algorithm)
    like = parameters()
    population, _ = strategy.ask(jax.random.key(1), state)
    first = jax.tree.map(lambda x: x[0], population)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), first) == jax.tree.map(lambda x: (x.shape, x.dtype), like)
    jax.tree.map(np.testing.assert_array_equal, strategy.mean(state), like)
    np.testing.assert_allclose((flat(population) - flat(jax.tree.map(lambda x: x[None], like))).std(), 0.3, rtol=0.2)
    assert len(np.unique(flat(population), axis=0)) == 16


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_flat_generation_changes_nothing(algorithm):
    strategy, state = build(algorithm)
    after = steps(strategy, state, lambda x, _: np.full(len(x), 0.25), 30)
    jax.tree.map(np.testing.assert_array_equal, after, state)


@pytest.mark.parametrize("fitness", [np.arange(16), np.arange(16) // 12, np.arange(16) // 4 == 0, np.arange(16) // 3])
@pytest.mark.parametrize("algorithm", ["sep-cma-es", "iso-cma-es", "cma-es", "lm-ma-es"])
def test_ties_do_not_bias_sigma(algorithm, fitness):
    """Under fitness unrelated to the members the path gains its expected length, c (2 - c) n, whatever is tied."""
    dim, lengths = 300, []
    strategy, state = build(algorithm, like={"w": jnp.zeros(dim)})
    for seed in range(6):
        population, asked = strategy.ask(jax.random.key(seed), state)
        after, _ = strategy.tell(population, fitness.astype(float), asked)
        path = {"cma-es": "path_sigma", "lm-ma-es": "path"}.get(algorithm, "p_std")
        lengths.append(np.sum(np.square(getattr(after, path))))
    c = strategy._constants.c_sigma if hasattr(strategy, "_constants") else float(strategy._params.c_std)
    assert np.mean(lengths) / (c * (2 - c) * dim) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_failures_rank_last_and_do_not_poison(algorithm):
    """NaN and infinities act exactly like the lowest finite fitness tied among themselves."""
    strategy, state = build(algorithm)
    population, asked = strategy.ask(jax.random.key(2), state)
    fitness = np.random.default_rng().normal(size=16)
    failed, worst = fitness.copy(), fitness.copy()
    failed[[1, 5, 9]] = [np.nan, -np.inf, np.inf]
    worst[[1, 5, 9]] = -1e9
    after, metrics = strategy.tell(population, failed, asked)
    expected, _ = strategy.tell(population, worst, asked)
    jax.tree.map(np.testing.assert_array_equal, after, expected)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(strategy.mean(after)))
    assert metrics["failed"] == pytest.approx(3 / 16)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_all_failed_leaves_the_state_with_a_warning(algorithm):
    strategy, state = build(algorithm)
    population, asked = strategy.ask(jax.random.key(2), state)
    with pytest.warns(UserWarning, match="every member"):
        after, _ = strategy.tell(population, np.full(16, np.nan), asked)
    jax.tree.map(np.testing.assert_array_equal, after, asked)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nothing_compiles_after_the_first_generation(algorithm, caplog):
    strategy, state = build(algorithm)
    state = steps(strategy, state, lambda x, _: x.sum(axis=1), 1)
    strategy.mean(state)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        strategy.mean(steps(strategy, state, lambda x, _: x.sum(axis=1), 3, seed=1))
    assert not [record.getMessage() for record in caplog.records if "ompil" in record.getMessage()]


def test_separable_scales_adapt_to_the_problem():
    """On an axis-aligned ellipsoid the learned scales are inversely related to the curvatures."""
    strategy, state = build("sep-cma-es", like={"w": jnp.ones(10)})
    curvature = 10.0 ** np.linspace(0, 4, 10)
    state = steps(strategy, state, lambda x, _: -(x.astype(float) ** 2 * curvature).sum(axis=1), 120)
    slope = np.polyfit(np.log(curvature), np.log(np.asarray(state.C)), 1)[0]
    assert -1.3 < slope < -0.7


def test_isotropic_scales_stay_equal():
    strategy, state = build("iso-cma-es")
    after = steps(strategy, state, lambda x, _: -((x - 1) ** 2).sum(axis=1), 100)
    np.testing.assert_array_equal(after.C, np.ones(14))
    assert after.std != state.std


def test_default_strategy_is_fast_at_the_papers_size():
    like = {"w": jnp.zeros(4172)}
    strategy = make_strategy(SearchConfig(), like)
    state = steps(strategy, strategy.init(jax.random.key(0), like), lambda x, _: x[:, 0], 2)
    seconds = []
    for generation in range(10):
        start = time.perf_counter()
        state = jax.block_until_ready(steps(strategy, state, lambda x, _: x[:, 0], 1, seed=generation))
        seconds.append(time.perf_counter() - start)
    assert np.median(seconds) < 0.05


def test_share_ties_against_enumeration():
    """Shared weights are the average over all orders in which ties could be broken."""
    rng = np.random.default_rng()
    fitness, weights = rng.integers(0, 3, size=7).astype(float), np.sort(rng.normal(size=7))[::-1]
    broken = [np.argsort(np.argsort(-(fitness + 1e-6 * rng.random(7)))) for _ in range(20000)]
    np.testing.assert_allclose(share_ties(fitness, weights), weights[np.array(broken)].mean(axis=0), atol=0.06)
    np.testing.assert_allclose(share_ties(fitness, weights).sum(), weights.sum(), rtol=1e-12)
    np.testing.assert_allclose(share_ties(np.zeros(7), weights), weights.mean())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"algorithm": "cmaes"}, "algorithm"),
        ({"population": 2}, "population"),
        ({"algorithm": "pgpe", "population": 7}, "mirrored"),
        ({"sigma": 0.0}, "sigma"),
        ({"learning_rate": 0.1}, "learning_rate"),
    ],
)
def test_bad_settings_are_named(options, named):
    with pytest.raises((ValueError, TypeCheckError), match=named):  # the latter: the annotation, executed in tests
        SearchConfig(**options)


def test_bad_start_and_fitness_are_errors():
    strategy, state = build("sep-cma-es")
    population, state = strategy.ask(jax.random.key(0), state)
    with pytest.raises(ValueError, match="shape"):
        strategy.tell(population, np.zeros(3), state)
    with pytest.raises(ValueError, match="NaN"):
        strategy.init(jax.random.key(0), jax.tree.map(lambda x: x * np.nan, parameters()))
    with pytest.raises(ValueError, match="14"):
        strategy.init(jax.random.key(0), {"w": jnp.zeros(3)})
