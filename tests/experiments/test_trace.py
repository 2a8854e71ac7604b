"""What a trace says stayed is what stands in the cache."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.trace import HELD, ORIGIN, Traced, kept_bits, pack, pack_counts, token_texts, unpack, unpack_counts
from hosts.rollout import Schedule, prefill
from hosts.stream import Stream, make_engine
from namm.artefact import Memory
from namm.cache import CacheShape
from namm.config import MemoryConfig
from namm.selection import SelectionConfig
from tests.random_host import SPEC, all_memories, random_memory, random_params
from tests.tiny import tiny_tokenizer

pytestmark = pytest.mark.usefixtures("compile_quickly")
WIDTH, KEPT = 64, 24


def read(memory: Memory, traced: bool, lengths: list[int], tokens: np.ndarray) -> Stream:
    engine = make_engine(SPEC, memory.policy, memory.selection)
    if traced:
        engine = replace(engine, policy=Traced(engine.policy, 9))
    whole = jax.jit(prefill, static_argnums=(0, 6))
    budget, schedule = jnp.full(len(lengths), KEPT), Schedule(memory.interval, 32, KEPT)
    return whole(
        engine, random_params(0), memory.population, jnp.asarray(tokens), jnp.asarray(lengths), budget, schedule,
        jax.random.key(0),
    )  # fmt: skip


@pytest.mark.parametrize("name", all_memories())
def test_the_policys_own_state_stays_apart(name: str) -> None:
    memory, key = all_memories()[name], jax.random.key(0)
    shape = CacheShape(SPEC.kv_heads, SPEC.group, 8, SPEC.head_dim)
    policy = make_engine(SPEC, memory.policy, memory.selection).policy
    own, traced = policy.init(shape, key), Traced(policy, 3).init(shape, key)
    for before, after, added in zip(own, traced, (1, 3), strict=True):
        assert set(before) <= set(after) and len(after) == len(before) + added
        assert all(np.array_equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("name", ["namm-strict", "streaming-llm", "random"])
def test_origins_are_true_and_change_nothing(name: str) -> None:
    memory, lengths = all_memories()[name], [WIDTH, 50]
    tokens = np.random.default_rng().integers(0, SPEC.vocabulary - 1, (2, WIDTH)).astype(np.int32)
    plain, traced = read(memory, False, lengths, tokens), read(memory, True, lengths, tokens)
    for a, b in zip(plain.cache, traced.cache, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    valid, origin = np.asarray(traced.cache.valid), np.asarray(traced.state.slots[ORIGIN])
    assert ((origin > 0) == valid).all()
    if memory.policy.position_rule == "original":
        np.testing.assert_array_equal(origin[valid] - 1, np.asarray(traced.cache.positions)[valid])
    for row, length in enumerate(lengths):
        bits = kept_bits(origin[:, row], length)
        np.testing.assert_array_equal(bits.sum(2), valid[:, row].sum(2))
        if name == "streaming-llm":  # renumbers its slots: the first four tokens and the newest
            assert (np.flatnonzero(bits[0, 0]) == [0, 1, 2, 3, *range(length - KEPT + 4, length)]).all()


def test_counts_are_those_of_shorter_contexts() -> None:
    memory = random_memory(2, MemoryConfig(interval=16, selection=SelectionConfig("strict")))
    lengths, tokens = [WIDTH, 45], np.random.default_rng().integers(0, SPEC.vocabulary - 1, (2, WIDTH)).astype(np.int32)
    held = np.asarray(read(memory, True, lengths, tokens).state.running[HELD])  # [layer, batch, head, update]
    for row, length in enumerate(lengths):
        updates = -(-length // memory.interval)
        assert updates > 2 and not held[:, row, :, updates - 1 :].any()
        for done in range(1, updates):
            shorter = read(memory, True, [done * memory.interval] * 2, tokens)
            np.testing.assert_array_equal(held[:, row, :, done - 1], shorter.cache.valid[:, row].sum(-1))


def test_bits_pack_and_unpack() -> None:
    rng = np.random.default_rng()
    shape = (int(rng.integers(1, 5)), int(rng.integers(1, 5)), int(rng.integers(1, 70)))
    bits = rng.random(shape) < 0.3
    np.testing.assert_array_equal(unpack(pack(bits), shape), bits)
    counts, steps = rng.integers(0, 70_000, shape), np.arange(shape[2]) * 7
    read, held = unpack_counts(pack_counts(steps, counts), shape[:2])
    assert (read == steps).all() and (held == counts).all()
    with pytest.raises(ValueError, match="expected"):
        unpack(pack(bits), (shape[0] + 1, *shape[1:]))


def test_token_texts_join_to_the_text() -> None:
    tokenizer = tiny_tokenizer()
    text = "one  two\n three!"
    assert "".join(token_texts(tokenizer, tokenizer(text)["input_ids"])) == text
