"""What a search moves of a memory with many sets of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.directions import Directions
from namm.artefact import make
from namm.config import MemoryConfig, ScorerConfig
from namm.selection import SelectionConfig

LAYERS, HEADS, POPULATION = 3, 2, 4


def random(tree, rng: np.random.Generator, *leading: int):
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=(*leading, *x.shape)), jnp.float32), tree)


@pytest.mark.parametrize("kind", ["linear", "mlp", "bam"])
@pytest.mark.parametrize(("name", "own", "sets"), [
    ("layer", (LAYERS, 1), (LAYERS, HEADS)), ("shared", (1, 1), (LAYERS, HEADS)), ("shared", (1,), (LAYERS,)),
])  # fmt: skip
def test_sets_change_alike(name: str, own: tuple[int, ...], sets: tuple[int, ...], kind: str) -> None:
    rng, scorer = np.random.default_rng(), ScorerConfig(kind, 5, sets)  # type: ignore[arg-type]
    start = random(make("x", MemoryConfig(("norms", "near", "newness"), scorer=scorer)).params.evolved, rng)
    directions = Directions(name, scorer, start)  # type: ignore[arg-type]
    origin = directions.origin
    assert {x.shape[: len(sets)] for x in jax.tree.leaves(origin)} == {own}
    jax.tree.map(np.testing.assert_array_equal, directions.parameters(origin), start)

    numbers = random(origin, rng, POPULATION)
    found = directions.parameters(numbers)
    for member in range(POPULATION):
        one = jax.tree.map(lambda x: x[member], numbers)  # noqa: B023 (used at once)
        alone = directions.parameters(one)
        jax.tree.map(np.testing.assert_array_equal, alone, jax.tree.map(lambda x: x[member], found))  # noqa: B023
        for place in np.ndindex(*sets):
            at = tuple(np.minimum(place, np.array(own) - 1))
            for leaf in ("kernel", "bias"):
                expected = start["params"]["score"][leaf][place] + one[leaf][at]
                np.testing.assert_array_equal(alone["params"]["score"][leaf][place], expected)
    for layer in set(start["params"]) - {"score"}:
        for leaf, value in start["params"][layer].items():
            same = np.broadcast_to(value, (POPULATION, *value.shape))
            np.testing.assert_array_equal(found["params"][layer][leaf], same)


@pytest.mark.parametrize("budgets", ["layer", "head"])
def test_budgets_alone(budgets: str) -> None:
    rng, scorer = np.random.default_rng(), ScorerConfig("mlp", 5, (LAYERS, HEADS))
    selection = SelectionConfig(threshold=None, budgets=budgets)  # type: ignore[arg-type]
    start = random(make("x", MemoryConfig(("norms",), scorer=scorer, selection=selection)).params.evolved, rng)
    directions = Directions("budgets", scorer, start)
    jax.tree.map(np.testing.assert_array_equal, directions.parameters(directions.origin), start)
    numbers = random(directions.origin, rng, POPULATION)
    found = directions.parameters(numbers)
    np.testing.assert_array_equal(found["budgets"], start["budgets"] + numbers)
    for new, old in zip(jax.tree.leaves(found["params"]), jax.tree.leaves(start["params"]), strict=True):
        np.testing.assert_array_equal(new, np.broadcast_to(old, (POPULATION, *old.shape)))
    scores = Directions("shared", scorer, start)  # leaves the budgets alone
    for new in (scores.parameters(scores.origin), scores.parameters(random(scores.origin, rng, POPULATION))):
        np.testing.assert_array_equal(new["budgets"], np.broadcast_to(start["budgets"], new["budgets"].shape))


def test_a_set_by_itself_is_what_the_search_has() -> None:
    start = {"params": {"score": {"kernel": jnp.ones((3, 1)), "bias": jnp.ones(1)}}}
    directions = Directions("own", ScorerConfig("linear"), start)
    assert directions.origin is start
    numbers = random(start, np.random.default_rng(), POPULATION)
    assert directions.parameters(numbers) is numbers
