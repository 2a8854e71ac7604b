"""The torch update against the JAX one: same scores and kept slots, for every policy and on the original's vectors."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from namm.artefact import Memory
from namm.cache import CacheShape, append, empty
from namm.config import MemoryConfig, ScorerConfig
from namm.contract import Observation, Parameters, annotate, layer_parameters
from namm.memory import Layout, update
from namm.model import NammPolicy
from namm.network import from_flat
from namm.pytorch import port
from namm.pytorch import state as torch_state
from namm.pytorch.model import TorchNamm
from namm.pytorch.selection import compact, select
from namm.pytorch.selection import update as torch_update
from namm.selection import SelectionConfig
from tests.namm.test_golden import GOLDEN, WINDOW, by_layer
from tests.random_host import ALL_FEATURES, BUDGETED, INTERVAL, all_memories, random_memory

HEADS, GROUP, DIM, KEPT, CHUNK = 2, 2, 8, 20, 16
LAYER = 1  # whose parameters are taken, where layers have their own
LENGTHS = (128, 75)
SHORT = {"lagkv": {"lag": 8}, "snapkv": {"window": 8, "kernel": 3}, "sparse-transformer-strided": {"stride": 8}}
SHORT["sparse-transformer-fixed"] = {"stride": 8, "summary": 2}


def memories() -> dict[str, Memory]:
    """Every policy, with settings small enough to matter here, and every scorer."""
    out = all_memories()
    for name, settings in SHORT.items():
        out[f"{name}-short"] = replace(out[name], policy=replace(out[name].policy, **settings))
    out["sirllm"] = replace(out["sirllm"], policy=replace(out["sirllm"].policy, decay=0.7))
    expected: Any = out["expected-attention"].policy
    frequencies = tuple(10000.0 ** (-np.arange(DIM // 2) / (DIM // 2)))
    out["expected-attention"] = replace(
        out["expected-attention"], policy=replace(expected, frequencies=frequencies, scale=1.2, future=20)
    )
    for kind in ("linear", "mlp"):
        config = MemoryConfig(ALL_FEATURES, scorer=ScorerConfig(kind, 5), interval=INTERVAL, selection=BUDGETED)
        out[f"namm-{kind}"] = random_memory(3, config)
    return out


MEMORIES = memories()


class World:
    """Random keys, values, attention, queries and signals of two sequences, as functions of position."""

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        length = LENGTHS[0]
        self.keys = rng.normal(size=(2, HEADS, length, DIM)).astype(np.float32)
        self.values = rng.normal(size=(2, HEADS, length, DIM)).astype(np.float32)
        self.attention = rng.gamma(0.3, size=(2, HEADS, length, length)).astype(np.float32) / 20
        self.queries = rng.normal(size=(2, HEADS * GROUP, length, DIM)).astype(np.float32)
        self.signals = {name: rng.gamma(2.0, size=(2, length)).astype(np.float32) for name in
                        ("surprisal", "repeat-surprisal")}
        self.priority = rng.uniform(0.01, 1, size=(2, HEADS, length)).astype(np.float32)

    def weights(self, row: int, query: np.ndarray, positions: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """[head, query, slot] from positions [head, slot]."""
        heads = np.arange(HEADS)[:, None, None]
        past = valid[:, None] & (positions[:, None] <= query[:, None])
        return np.where(past, self.attention[row][heads, query[:, None], positions[:, None]], 0.0).astype(np.float32)


def chunks(length: int) -> list[tuple[int, int, bool]]:
    """(first token, count, whether an update follows) of one row."""
    out = []
    for begin in range(0, LENGTHS[0], CHUNK):
        count = max(min(length - begin, CHUNK), 0)
        out.append((begin, count, count > 0 and (begin + count) % INTERVAL == 0))
    return out


def run_jax(memory: Memory, world: World, row: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(scores, positions, valid) before, and positions after, every update of one row."""
    layout = Layout(KEPT, INTERVAL)
    policy: Any = memory.policy
    shape = CacheShape(HEADS, GROUP, layout.slots, DIM)
    cache, state = empty(shape), policy.init(shape, jax.random.key(0))
    log, window = [], 0
    for begin, count, due in chunks(LENGTHS[row]):
        if not count:
            break
        query = np.minimum(np.arange(begin, begin + CHUNK), LENGTHS[0] - 1)
        valid = jnp.arange(CHUNK) < count
        new = (jnp.asarray(x[row][:, query]) for x in (world.keys, world.values))
        cache = append(cache, *new, jnp.asarray(query), valid, KEPT + window)
        weights = world.weights(row, query, np.asarray(cache.positions), np.asarray(cache.valid))
        seen = Observation(jnp.asarray(weights), jnp.asarray(world.queries[row][:, query]), jnp.int32(count),
                           jnp.int32(begin))
        state = policy.observe(state, seen)
        signals = {name: jnp.asarray(values[row][query]) for name, values in world.signals.items()}
        state = annotate(state, signals, valid, KEPT + window)
        window += count
        if due:
            if "priority" in state.slots:
                drawn = jnp.asarray(world.priority[row])[jnp.arange(HEADS)[:, None], cache.positions]
                state = state._replace(slots={"priority": jnp.where(cache.valid, drawn, 0.0)})
            params = layer_parameters(policy, memory.params, LAYER)
            scores, _ = policy.score(params, state, cache)
            before = (np.asarray(scores), np.asarray(cache.positions), np.asarray(cache.valid))
            state, cache = update(policy, params, state, cache, memory.selection, KEPT, layout)
            log.append((*before, np.where(cache.valid, cache.positions, -1)))
            window = 0
    return log


def run_torch(memory: Memory, world: World) -> list[list[tuple[np.ndarray, ...]]]:
    """The same for both rows at once, as one batch."""
    policy = port(memory.policy, memory.params, LAYER)
    state = policy.init(torch_state.CacheShape(2, HEADS, GROUP, DIM), torch.device("cpu"))
    none = torch.zeros(2, HEADS, 0, DIM)
    cache = torch_state.SlotCache(none, none, none[..., 0].long(), none[..., 0].bool())
    logs: list[list[tuple[np.ndarray, ...]]] = [[], []]
    for plans in zip(*map(chunks, LENGTHS), strict=True):
        begin, counts, due = plans[0][0], tuple(p[1] for p in plans), torch.tensor([p[2] for p in plans])
        query = np.arange(begin, begin + CHUNK)
        real = torch.arange(CHUNK) < torch.tensor(counts)[:, None]
        rows = (torch.tensor(query).expand(2, HEADS, CHUNK), real[:, None].expand(2, HEADS, CHUNK))
        new = (torch.tensor(x[:, :, query]) for x in (world.keys, world.values))
        cache = torch_state.SlotCache(*(torch.cat(pair, 2) for pair in zip(cache, (*new, *rows), strict=True)))
        slots = {}
        for name, leaf in state.slots.items():
            signal = world.signals.get(name)
            fresh = torch.zeros(2, HEADS, CHUNK, *leaf.shape[3:])
            if signal is not None:
                fresh = torch.where(real, torch.tensor(signal[:, query]), 0.0)[:, None].expand(2, HEADS, CHUNK)
            slots[name] = torch.cat([leaf, fresh], 2)
        at, valid = cache.positions.numpy(), cache.valid.numpy()
        weights = np.stack([world.weights(i, query, at[i], valid[i]) for i in (0, 1)])
        for i, count in enumerate(counts):
            weights[i, :, count:] = np.nan
        queries = torch.tensor(world.queries[:, :, query])
        seen = tuple(min(begin, length) for length in LENGTHS)
        state = policy.observe(state._replace(slots=slots), torch_state.Observation(
            torch.tensor(weights), queries, counts, seen))
        if due.any():
            if "priority" in state.slots:
                drawn = torch.tensor(world.priority).gather(2, cache.positions)
                state = state._replace(slots={"priority": torch.where(cache.valid, drawn, 0.0)})
            scores, _ = policy.score(state, cache)
            before = tuple(x.numpy() for x in (scores, cache.positions, cache.valid))
            state, cache = torch_update(policy, state, cache, memory.selection, torch.full((2, 1), KEPT), due)
            after = torch.where(cache.valid, cache.positions, -1).numpy()
            for i in (0, 1):
                if due[i]:
                    logs[i].append((*(x[i] for x in before), after[i]))
    return logs


@pytest.mark.parametrize("name", MEMORIES)
def test_every_policy_scores_and_keeps_as_in_jax(name: str) -> None:
    world = World(seed=list(MEMORIES).index(name))
    logs = run_torch(MEMORIES[name], world)
    for row, length in enumerate(LENGTHS):
        expected = run_jax(MEMORIES[name], world, row)
        assert len(expected) == len(logs[row]) == length // INTERVAL
        for ours, theirs in zip(logs[row], expected, strict=True):
            for head in range(HEADS):
                (score, position, valid, kept), (jax_score, jax_position, jax_valid, jax_kept) = (
                    tuple(x[head] for x in part) for part in (ours, theirs)
                )
                np.testing.assert_array_equal(position[valid], jax_position[jax_valid])
                np.testing.assert_allclose(score[valid], jax_score[jax_valid], atol=1e-4, rtol=1e-5)
                np.testing.assert_array_equal(kept[kept >= 0], jax_kept[jax_kept >= 0])


@pytest.mark.parametrize("chunk", [64, 24, 1])
def test_golden(chunk: int) -> None:
    policy = NammPolicy(MemoryConfig(interval=WINDOW))
    statistics = {"mean": jnp.asarray(GOLDEN["norm_mean"]), "variance": jnp.asarray(GOLDEN["norm_var"])}
    ported = port(policy, Parameters(from_flat(GOLDEN["params"], policy.initial_scorer()), statistics))
    assert isinstance(ported, TorchNamm)
    for updates in by_layer().values():
        state = ported.init(torch_state.CacheShape(1, 2, 2, 4), torch.device("cpu"))
        none = torch.zeros(1, 2, 0, 4)
        cache = torch_state.SlotCache(none, none, none[..., 0].long(), none[..., 0].bool())
        for i in updates:
            attention = torch.tensor(GOLDEN[f"u{i}_attn"]).unflatten(0, (2, 2)).mean(1)[None]
            new = torch.tensor(GOLDEN[f"u{i}_newpos"]).long().expand(1, 2, WINDOW)
            empty_keys = torch.zeros(1, 2, WINDOW, 4)
            fresh = (empty_keys, empty_keys, new, torch.ones_like(new, dtype=torch.bool))
            cache = torch_state.SlotCache(*(torch.cat(pair, 2) for pair in zip(cache, fresh, strict=True)))
            grown = {k: torch.cat([v, v.new_zeros(1, 2, WINDOW, *v.shape[3:])], 2) for k, v in state.slots.items()}
            state = state._replace(slots=grown)
            for start in range(0, WINDOW, chunk):
                rows = attention[:, :, start : start + chunk]
                seen = (int(new[0, 0, 0]) + start,)
                none_asked = torch.zeros(1, 4, 0, 4)
                state = ported.observe(state, torch_state.Observation(rows, none_asked, (rows.shape[2],), seen))
            features, _ = ported.features(state, cache)
            np.testing.assert_allclose(features[0], GOLDEN[f"u{i}_feat"], atol=1e-4)
            scores, _ = ported.score(state, cache)
            np.testing.assert_allclose(scores[0], GOLDEN[f"u{i}_scores"], atol=1e-4)
            keep = select(scores, cache.positions, cache.valid, SelectionConfig(), torch.tensor([[WINDOW]]))
            for head in range(2):
                np.testing.assert_array_equal(np.flatnonzero(keep[0, head]), GOLDEN[f"u{i}_idx"][head])
            state, cache = compact(state, cache, keep)
            np.testing.assert_array_equal(cache.positions[0], GOLDEN[f"u{i}_pos"])


def test_random_draws_once_per_token_and_uniformly() -> None:
    """Priorities depend on head and position alone, stay with their token and fill (0, 1) evenly."""
    policy = port(MEMORIES["random"].policy, MEMORIES["random"].params)
    state = policy.init(torch_state.CacheShape(1, 4, 1, 2), torch.device("cpu"))
    positions = torch.arange(4000).expand(1, 4, 4000)
    keys = torch.zeros(1, 4, 4000, 2)
    cache = torch_state.SlotCache(keys, keys, positions, torch.ones_like(positions, dtype=torch.bool))
    scores, state = policy.score(state._replace(slots={"priority": torch.zeros(1, 4, 4000)}), cache)
    again, _ = policy.score(state, cache)
    torch.testing.assert_close(scores, again, rtol=0, atol=0)
    spread = np.sort(scores.flatten().numpy())
    assert np.abs(spread - (np.arange(spread.size) + 0.5) / spread.size).max() < 0.02
    assert np.abs(np.corrcoef(scores[0].numpy()) - np.eye(4)).max() < 0.06
