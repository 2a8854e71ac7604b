"""The one contract of everything that decides what stays: trained memories and training-free policies alike.

A host calls, for one layer of one sequence (heads leading; batch, candidates and layers are added by `vmap`):

    state = policy.init(shape, key)                      # once
    state = policy.observe(state, observation)           # after the attention of every chunk of queries
    state = annotate(state, signals, valid, offset)      # after the chunk, where `policy.needs` names a signal
    scores, state = policy.score(params, state, cache)   # at an update; higher = keep
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from namm.cache import CacheShape, SlotCache


class Parameters(NamedTuple):
    """A policy's arrays: what a search changes and what stays (normalisation statistics). Both empty if training-free.

    A population has a leading pop axis on every leaf of `evolved` and none on `frozen`. Behind it stands a layer axis
    where the policy is `layered`: a call of `score` gets its own layer's part.
    """

    evolved: Any
    frozen: Any


SIGNALS = frozenset({"surprisal", "repeat-surprisal"})
NO_PARAMETERS = Parameters({}, {})


class PolicyState(NamedTuple):
    """What a policy carries for one layer of one sequence.

    `slots`: arrays [head, slot, ...], gathered with the cache when slots are dropped and zero for new tokens.
    `running`: arrays of any shape that belong to the layer as a whole (a mean query, a random key).
    """

    slots: dict[str, Array]
    running: dict[str, Array]


class Observation(NamedTuple):
    """What one layer saw while a chunk of queries passed.

    attention: softmax weights, mean over the query heads that share a KV head; rows >= count are meaningless.
    queries: query vectors of every query head before RoPE; rows >= count are meaningless.
    count: how many rows of the chunk are real. seen: tokens of the sequence before this chunk.
    """

    attention: Float[Array, "head query slot"]
    queries: Float[Array, "query_head query dim"]
    count: Int[Array, ""]  # pyright: ignore[reportIncompatibleMethodOverride] (tuple.count is of no use here)
    seen: Int[Array, ""]


@runtime_checkable
class Policy(Protocol):
    """Anything that scores slots. `needs` names what the host must provide beyond the cache itself."""

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> frozenset[str]:
        """Subset of {"attention", "queries", "rope"} and `SIGNALS`; "rope": fields `frequencies` and `scale` to set."""
        ...

    @property
    def position_rule(self) -> str:
        """"original": keys stay rotated at true positions; "slot": survivors are re-rotated to 0..n-1."""
        ...

    @property
    def layered(self) -> bool:
        """Whether every layer has evolved parameters of its own."""
        ...

    def init(self, shape: CacheShape, key: Array) -> PolicyState: ...

    def observe(self, state: PolicyState, observation: Observation) -> PolicyState: ...

    def score(
        self, params: Parameters, state: PolicyState, cache: SlotCache
    ) -> tuple[Float[Array, "head slot"], PolicyState]: ...


def layer_parameters(policy: Policy, params: Parameters, layer: int) -> Parameters:
    """What a call of `score` in this layer gets; `params` without pop axis."""
    return params._replace(evolved=jax.tree.map(lambda x: x[layer], params.evolved)) if policy.layered else params


def annotate(
    state: PolicyState,
    signals: dict[str, Float[Array, " query"]],
    valid: Bool[Array, " query"],
    offset: Int[Array, ""] | int,
) -> PolicyState:
    """Write a chunk's per-token signals (nats) into the slot arrays that bear a signal's name.

    "surprisal" is -log p(token | past), "repeat-surprisal" that of seeing the previous token once more.
    """
    slots = dict(state.slots)
    for key, old in state.slots.items():
        signal = signals.get(key.rpartition("/")[2])
        if signal is not None:
            rows = jnp.broadcast_to(signal, (old.shape[0], signal.shape[0]))
            current = jax.lax.dynamic_slice(old, (0, offset), rows.shape)
            slots[key] = jax.lax.dynamic_update_slice(old, jnp.where(valid, rows, current), (0, offset))
    return state._replace(slots=slots)
