"""Shares of the budget by descent: the read behind a soft edge against the engine's own, its slope, and a descent."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import shares as descent
from experiments.objective import score_recorded
from experiments.prompts import PromptSource, TaskMix
from experiments.recordings import Record, RecordPool, stack
from experiments.shares import descended, ranked, surprise
from hosts.stream import Engine, make_engine
from hosts.weights import Host, load_host
from namm.artefact import Memory, make
from namm.config import MemoryConfig, ScorerConfig
from namm.contract import Parameters
from namm.selection import SelectionConfig
from tests.tiny import save_host, tiny_llama

pytestmark = pytest.mark.usefixtures("compile_quickly")


def reading(budgets: str, folder: Path) -> tuple[Memory, Engine, Host, list[Record]]:
    """A random memory with shares for a tiny host of two layers and two heads, and four prompts of two lengths."""
    host = load_host(save_host(folder / "host", tiny_llama(max_position_embeddings=2048)))
    selection = SelectionConfig(threshold=None, sinks=2, budgets=budgets)  # type: ignore[arg-type]
    config = MemoryConfig(("norms", "newness"), scorer=ScorerConfig("linear", sets=(2, 2)), selection=selection)
    memory, rng = make("shares", config), np.random.default_rng()
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), memory.params)
    memory = replace(memory, params=params)
    source = PromptSource(host, TaskMix(("passkey", "niah-single"), 500))
    engine = make_engine(host.spec, memory.policy, memory.selection)
    return memory, engine, host, RecordPool(engine, host.params, source, 64, 4, 4).get("train", [0, 1, 2, 3])


@pytest.mark.parametrize("budgets", ["layer", "head"])
def test_behind_a_hard_edge_the_host_answers_as_from_its_compressed_cache(budgets: str, tmp_path: Path) -> None:
    """Heads that keep whole numbers of tokens: with ranks cut off sharply, the log-likelihood is the engine's."""
    memory, engine, host, records = reading(budgets, tmp_path)
    stream, prompt = stack(records)
    shape = memory.params.evolved["budgets"].shape
    factors = np.array([0.5, 1.5] if budgets == "layer" else [[0.5, 1.5], [1.25, 0.75]])
    shares = jnp.asarray(np.log(factors).reshape(shape), jnp.float32)
    budget = jnp.full(4, 3 + 40, jnp.int32)  # two sinks and the newest token are protected: 40 are shared out
    own = Parameters({**memory.params.evolved, "budgets": shares}, memory.params.frozen)
    many = own._replace(evolved=jax.tree.map(lambda x: x[None], own.evolved))
    expected = np.asarray(score_recorded(engine, host.params, many, stream, prompt, budget, 172).grade)[0]
    for one, wanted in zip(ranked(engine, own, records), expected, strict=True):
        width = int(one.prompt.question_length + one.prompt.target_length) + 5
        got = surprise(engine, host.params, shares, one, budget[0], width, 1e-5)
        np.testing.assert_allclose(-got, wanted, rtol=1e-4)


def test_the_slope_is_that_of_small_changes(tmp_path: Path) -> None:
    memory, engine, host, records = reading("head", tmp_path)
    one, budget = ranked(engine, memory.params, records)[0], jnp.int32(60)
    width = int(one.prompt.question_length + one.prompt.target_length)
    shares, rng = memory.params.evolved["budgets"], np.random.default_rng()
    way = jnp.asarray(rng.normal(size=shares.shape), jnp.float32)

    def along(step: float) -> jax.Array:
        return surprise(engine, host.params, shares + step * way, one, budget, width, 1.0)

    change = (float(along(0.02)) - float(along(-0.02))) / 0.04
    steps = 0.04 * ((jnp.arange(64) + 0.5) / 64 - 0.5)  # the slope bends, and jumps where a head's edge stops shrinking
    slope = float(jnp.mean(jax.jit(jax.vmap(jax.grad(along)))(steps)))
    np.testing.assert_allclose(slope, change, rtol=0.05, atol=2e-4)


def test_descent_moves_shares_alone_and_answers_cost_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, engine, host, records = reading("head", tmp_path)
    monkeypatch.setattr(descent, "STEPS", 20)
    told: list[str] = []
    after = descended(memory, engine, host.params, [records[:2], records[2:]], (0.1, 40), told.append)
    assert len(told) == 1 and "step 20 of 20" in told[0]
    jax.tree.map(np.testing.assert_array_equal, after.params.evolved["params"], memory.params.evolved["params"])

    def cost(memory: Memory) -> float:
        shares = memory.params.evolved["budgets"]
        prompts = ranked(engine, memory.params, records)
        return float(np.mean([surprise(engine, host.params, shares, one, jnp.int32(45), 128) for one in prompts]))

    assert cost(after) < cost(memory)
    equal = Engine(engine.spec, engine.policy, SelectionConfig(threshold=None))
    with pytest.raises(ValueError, match="has no shares of the budget"):
        descended(memory, equal, host.params, [records], (0.1,), told.append)
