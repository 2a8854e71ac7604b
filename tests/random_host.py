"""A random Llama as a parameter pytree: the laws need no trained weights."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from hosts.spec import HostSpec, RopeSpec
from namm.artefact import Memory, make, training_free
from namm.config import MemoryConfig, ScorerConfig
from namm.contract import Parameters
from namm.features import SpectrumConfig, blocks
from namm.policies import POLICIES
from namm.selection import SelectionConfig

SPEC = HostSpec(
    name="random",
    layers=2,
    query_heads=4,
    kv_heads=2,
    head_dim=8,
    hidden=32,
    intermediate=48,
    vocabulary=50,
    max_positions=512,
    rope=RopeSpec("default", 10000.0),
    norm_epsilon=1e-5,
    tied_embeddings=True,
    attention_bias=False,
    mlp_bias=False,
    bos_id=None,
    eos_ids=(49,),
)
INTERVAL = 32


def random_params(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)

    def normal(*shape: int, gain: float = 1.0) -> Any:
        return jnp.asarray(gain * rng.normal(size=shape) / np.sqrt(shape[-2]), jnp.float32)

    n, h, f = SPEC.layers, SPEC.hidden, SPEC.intermediate
    q, kv = SPEC.query_heads * SPEC.head_dim, SPEC.kv_heads * SPEC.head_dim
    layers = {
        "attention_norm": jnp.ones((n, h)),
        "query": normal(n, h, q, gain=2.0),
        "key": normal(n, h, kv, gain=2.0),
        "value": normal(n, h, kv),
        "output": normal(n, q, h),
        "mlp_norm": jnp.ones((n, h)),
        "gate": normal(n, h, f),
        "up": normal(n, h, f),
        "down": normal(n, f, h),
    }
    return {"embedding": normal(SPEC.vocabulary, h, gain=5.0), "norm": jnp.ones(h), "layers": layers}


def random_memory(seed: int, config: MemoryConfig) -> Memory:
    """A NAMM whose scorer is noise: it drops and keeps for no good reason, as a law must not care."""
    memory = make("noise", config)
    rng = np.random.default_rng(seed)
    import jax

    noise = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.5, jnp.float32), memory.params.evolved)
    return make("noise", config, Parameters(noise, memory.params.frozen))


ALL_FEATURES = tuple(blocks(SpectrumConfig()))
BUDGETED = SelectionConfig(threshold=None)


def all_memories() -> dict[str, Memory]:
    """Every policy, and memory models in each selection mode."""
    memories = {name: training_free(name, interval=INTERVAL) for name in POLICIES}
    memories["namm"] = random_memory(0, MemoryConfig(interval=INTERVAL, selection=BUDGETED))
    memories["namm-all-features"] = random_memory(
        1, MemoryConfig(ALL_FEATURES, interval=INTERVAL, selection=BUDGETED)
    )
    memories["namm-latest"] = random_memory(
        3, MemoryConfig(("latest", "near"), interval=INTERVAL, selection=BUDGETED)
    )
    memories["namm-layers"] = random_memory(
        4, MemoryConfig(("latest", "norms"), scorer=ScorerConfig(sets=(2,)), interval=INTERVAL, selection=BUDGETED)
    )
    every = MemoryConfig(
        ("key-cosine", "value-cosine", "norms", "near", "levels"),
        relative="read",
        scorer=ScorerConfig("mlp", 5, sets=(2, 2)),
        interval=INTERVAL,
        selection=BUDGETED,
    )
    memories["namm-heads"] = random_memory(5, every)
    for seed, name in enumerate(("layer", "head")):  # budgets of their own
        shares = replace(every, selection=replace(BUDGETED, budgets=name))
        memories[f"namm-{name}-budgets"] = random_memory(6 + seed, shares)
    memories["namm-strict"] = random_memory(2, MemoryConfig(interval=INTERVAL, selection=SelectionConfig("strict")))
    return memories
