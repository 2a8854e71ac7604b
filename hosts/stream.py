"""A frozen host reading token streams into slot caches: one chunk at a time, one memory update at a time.

Axes: layer, batch (rows: prompts, or candidate x prompt flattened), head, slot, query. Rows are right-padded inside:
row i holds its tokens at chunk columns [0, count_i); padding never enters a cache, so rows do not influence each other.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hosts.attention import slot_attention
from hosts.llama import Params, block, embed, logits, rope_frequencies, rotate
from hosts.spec import HostSpec
from namm.bundle import Bundle
from namm.cache import CacheShape, SlotCache, append, empty
from namm.contract import SIGNALS, Observation, Parameters, Policy, PolicyState, annotate
from namm.memory import Layout, update
from namm.model import NammPolicy
from namm.selection import SelectionConfig, share_out


@dataclass(frozen=True)
class Engine:
    """The static part of a rollout: host, policy and selection, hashable for `jit`.

    length: positions in use, which the `dynamic` RoPE rule alone reads.
    """

    spec: HostSpec
    policy: Policy
    selection: SelectionConfig
    length: int = 1


def make_engine(spec: HostSpec, policy: Policy, selection: SelectionConfig, length: int = 1) -> Engine:
    """An engine whose policy knows the host's RoPE frequencies where it asks for them (`needs` has "rope").

    ValueError for a memory whose parameters are for a host of another size.
    """
    if isinstance(policy, NammPolicy):
        policy.check_size(spec.layers, spec.kv_heads)
    return Engine(spec, bind_rope(spec, policy, length), selection, length)


def bind_rope(spec: HostSpec, policy: Policy, length: int) -> Policy:
    """The policy with the host's frequencies set, for those that rotate keys themselves; members of a bundle too."""
    if isinstance(policy, Bundle):
        return replace(policy, members=tuple(bind_rope(spec, member, length) for member in policy.members))
    if "rope" not in policy.needs:
        return policy
    frequencies, scale = rope_frequencies(spec, length)
    return cast(Policy, replace(cast(Any, policy), frequencies=tuple(map(float, frequencies)), scale=float(scale)))


class Stream(NamedTuple):
    """Everything a batch of sequences carries between calls.

    cache, state: leaves [layer, batch, ...]. seen: tokens read. position: of the next token (below `seen` where the
    policy re-rotates survivors). window: tokens since the last update. hidden: of the last token, before the last norm.
    """

    cache: SlotCache
    state: PolicyState
    seen: Int[Array, " batch"]
    position: Int[Array, " batch"]
    window: Int[Array, " batch"]
    hidden: Float[Array, "batch hidden"]
    token: Int[Array, " batch"]


def start(engine: Engine, params: Params, batch: int, slots: int, key: Array) -> Stream:
    """Empty caches of `slots` slots for `batch` sequences; `key` seeds policies that draw numbers."""
    spec = engine.spec
    shape = CacheShape(spec.kv_heads, spec.group, slots, spec.head_dim)
    dtype = params["embedding"].dtype

    def layer(layer_key: Array) -> tuple[SlotCache, PolicyState]:
        return empty(shape, dtype), engine.policy.init(shape, layer_key)

    single = jax.vmap(layer)(jax.random.split(key, spec.layers))
    cache, state = jax.tree.map(lambda x: jnp.repeat(x[:, None], batch, axis=1), single)
    zeros = jnp.zeros((batch,), jnp.int32)
    return Stream(cache, state, zeros, zeros, zeros, jnp.zeros((batch, spec.hidden), dtype), zeros)


def read(
    engine: Engine,
    params: Params,
    stream: Stream,
    tokens: Int[Array, "batch query"],
    counts: Int[Array, " batch"],
    offset: Int[Array, "..."] | int,
    observe: bool = True,
    past: SlotCache | None = None,
) -> tuple[Stream, Float[Array, "batch query hidden"]]:
    """Run a chunk through the host, writing its keys and values at slot `offset` (one for all rows, or one a row).

    `observe=False` skips what the policy would see, for tokens that no later update can judge. `past`, leaves
    [layer, batch, ...], is attended to in front of the stream's cache and stays as it is.
    Returns the hidden states before the final norm; those at columns >= counts are meaningless.
    """
    length = tokens.shape[1]
    columns = jnp.arange(length)
    valid = columns < counts[:, None]
    positions = stream.position[:, None] + columns
    frequencies, scale = rope_frequencies(engine.spec, engine.length)
    row_offset = None if jnp.ndim(offset) == 0 else 0

    def watch(weights: Array, state: PolicyState, *seen: Array) -> PolicyState:
        return engine.policy.observe(state, Observation(weights, *seen)) if observe else state

    def layer_step(hidden: Array, inputs: tuple[Params, SlotCache, PolicyState, tuple[SlotCache, ...]]) -> Any:
        layer, cache, state, before = inputs

        def attend(q: Array, k: Array, v: Array) -> tuple[Array, Any]:
            rotated = rotate(k, positions, frequencies, scale)
            write = jax.vmap(append, in_axes=(0, 0, 0, 0, 0, row_offset))
            grown = write(cache, rotated, v, positions, valid, offset)
            watched = (state, q, counts, stream.seen) if observe else (state,)
            out, new = slot_attention(
                rotate(q, positions, frequencies, scale), (*before, grown), positions, watch, watched
            )
            return out, (grown, new)

        return block(layer, engine.spec, hidden, attend)

    before = () if past is None else (past,)
    hidden, (cache, state) = jax.lax.scan(
        layer_step, embed(params, tokens), (params["layers"], stream.cache, stream.state, before)
    )
    wanted = engine.policy.needs & SIGNALS
    if wanted and observe:
        state = _annotate(state, signals(engine, params, stream, tokens, hidden, wanted), valid, offset)
    last = jnp.maximum(counts - 1, 0)
    moved = counts > 0
    return (
        Stream(
            cache,
            state,
            stream.seen + counts,
            stream.position + counts,
            stream.window + counts,
            jnp.where(moved[:, None], jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0], stream.hidden),
            jnp.where(moved, jnp.take_along_axis(tokens, last[:, None], axis=1)[:, 0], stream.token),
        ),
        hidden,
    )


def signals(
    engine: Engine, params: Params, stream: Stream, tokens: Array, hidden: Array, wanted: frozenset[str]
) -> dict[str, Float[Array, "batch query"]]:
    """Per-token signals of a chunk (see `namm.contract.annotate`); 0 for the first token of a sequence.

    stream: as it was before the chunk. hidden: what `read` returned for the chunk.
    """
    before = jnp.concatenate([stream.hidden[:, None], hidden[:, :-1]], axis=1)
    previous = jnp.concatenate([stream.token[:, None], tokens[:, :-1]], axis=1)
    named = {"surprisal": tokens, "repeat-surprisal": previous}
    ids = jnp.stack([named[name] for name in sorted(wanted)], axis=-1)

    def row(inputs: tuple[Array, Array]) -> Array:  # row by row: a chunk's logits over the vocabulary are large
        states, chosen = inputs
        return -jnp.take_along_axis(jax.nn.log_softmax(logits(params, engine.spec, states)), chosen, axis=1)

    first = (stream.seen[:, None] + jnp.arange(tokens.shape[1])) == 0
    values = jnp.where(first[..., None], 0.0, jax.lax.map(row, (before, ids)))
    return {name: values[..., i] for i, name in enumerate(sorted(wanted))}


def _annotate(state: PolicyState, signals: dict[str, Array], valid: Array, offset: Array | int) -> PolicyState:
    rows = jax.vmap(annotate, in_axes=(0, 0, 0, None if jnp.ndim(offset) == 0 else 0))
    return jax.vmap(rows, in_axes=(0, None, None, None))(state, signals, valid, offset)


def population(memory: Parameters) -> int:
    """Candidates in a population of parameters."""
    leaves = jax.tree.leaves(memory.evolved)
    return leaves[0].shape[0] if leaves else 1


def compress(
    engine: Engine,
    memory: Parameters,
    stream: Stream,
    budget: Int[Array, " batch"],
    layout: Layout,
    due: Bool[Array, " stream_rows"] | None = None,
) -> Stream:
    """One memory update in every layer, for every candidate and row.

    memory: a population (see `Parameters`; a training-free policy is one candidate). The stream has either as many rows
    as `budget` (shared by the candidates, which fan out to pop x batch rows) or pop x batch rows, candidate-major.
    due: rows of the stream to update, the others stay (it must already have this layout); None = all.
    """
    pop, batch = population(memory), budget.shape[0]
    rows = stream.seen.shape[0]
    if rows not in (batch, pop * batch):
        raise ValueError(f"stream has {rows} rows; expected {batch} (shared by candidates) or {pop * batch}")
    shared = rows == batch
    tokens = _budgets(engine, memory, budget, stream.seen, layout.kept)

    def one(params: Parameters, state: PolicyState, cache: SlotCache, tokens: Array) -> tuple[PolicyState, SlotCache]:
        return update(engine.policy, params, state, cache, engine.selection, tokens, layout)

    over_rows = jax.vmap(one, in_axes=(None, 0, 0, 0))
    rows_axis = None if shared else 0
    axes = (Parameters(0, None), rows_axis, rows_axis, None if tokens is None else 0)
    over_pop = jax.vmap(over_rows, in_axes=axes, axis_size=pop)
    own = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), memory.evolved) if engine.policy.layered else None
    spread = partial(tile_rows, pop=pop) if shared else lambda tree: tree
    due = None if due is None else spread(due)

    def layer(inputs: tuple[PolicyState, SlotCache, Any, Array | None]) -> tuple[PolicyState, SlotCache]:
        state, cache, evolved, own_budget = inputs
        params = memory._replace(evolved=evolved) if engine.policy.layered else memory
        split = (state, cache)
        if not shared:
            split = jax.tree.map(lambda x: x.reshape(pop, batch, *x.shape[1:]), split)
        new = over_pop(params, split[0], split[1], budget if own_budget is None else own_budget)
        new = jax.tree.map(lambda x: x.reshape(pop * batch, *x.shape[2:]), new)
        if engine.policy.position_rule == "slot":
            new = (new[0], _renumber(engine, new[1]))
        return new if due is None else jax.tree.map(partial(_choose, due), new, spread((state, cache)))

    state, cache = jax.lax.map(layer, (stream.state, stream.cache, own, tokens))
    seen, position, window, hidden, token = spread(stream[2:])
    if engine.policy.position_rule == "slot":
        filled = jnp.sum(cache.valid[0, :, 0], axis=-1).astype(jnp.int32)
        position = filled if due is None else jnp.where(due, filled, position)
    window = jnp.zeros_like(window) if due is None else jnp.where(due, 0, window)
    return Stream(cache, state, seen, position, window, hidden, token)


def _budgets(
    engine: Engine, memory: Parameters, budget: Array, seen: Int[Array, " stream_rows"], kept: int
) -> Int[Array, "layer pop batch #head"] | None:
    """Budgets of layers or heads that have their own; None where all have the same."""
    if engine.selection.budgets == "equal":
        return None
    seen = jnp.broadcast_to(seen.reshape(-1, len(budget)), (population(memory), len(budget)))
    most = jnp.minimum(jnp.minimum(seen, kept), engine.selection.widest * budget)
    over_rows = jax.vmap(partial(share_out, protected=engine.selection.protected), in_axes=(None, 0, 0))
    tokens = jax.vmap(over_rows, in_axes=(0, None, 0))(memory.evolved["budgets"], budget, most)
    return jnp.moveaxis(tokens, 2, 0)


def tile_rows(tree: Any, pop: int) -> Any:
    """Arrays [batch, ...] once for every candidate, candidate-major."""
    return jax.tree.map(lambda x: jnp.tile(x, (pop,) + (1,) * (x.ndim - 1)), tree)


def take_rows(stream: Stream, rows: Int[Array, " kept"]) -> Stream:
    """Some sequences of a batch, in this order."""
    layered, rest = jax.tree.map(lambda x: x[:, rows], stream[:2]), jax.tree.map(lambda x: x[rows], stream[2:])
    return Stream(*layered, *rest)


def unwatched(stream: Stream) -> Stream:
    """A stream that no policy watches any more: its cache as it stands."""
    return stream._replace(state=PolicyState({}, {}), window=jnp.zeros_like(stream.window))


def _choose(due: Bool[Array, " batch"], new: Array, old: Array) -> Array:
    return jnp.where(due.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)


def _renumber(engine: Engine, cache: SlotCache) -> SlotCache:
    """Slot positions: survivors are rotated on to 0, 1, 2, ... in cache order."""
    ranks = jnp.where(cache.valid, jnp.cumsum(cache.valid, axis=-1) - 1, 0).astype(jnp.int32)
    frequencies, _ = rope_frequencies(engine.spec, engine.length)
    return cache._replace(keys=rotate(cache.keys, ranks - cache.positions, frequencies), positions=ranks)


def relayout(stream: Stream, old: Layout, new: Layout) -> Stream:
    """Resize the two regions of every slot array; cut slots must be empty."""

    def resize(leaf: Array) -> Array:
        kept, window = leaf[:, :, :, : old.kept], leaf[:, :, :, old.kept :]
        return jnp.concatenate([_resize(kept, new.kept), _resize(window, new.window)], axis=3)

    slots = jax.tree.map(resize, (stream.cache, stream.state.slots))
    return stream._replace(cache=slots[0], state=stream.state._replace(slots=slots[1]))


def _resize(leaf: Array, slots: int) -> Array:
    if leaf.shape[3] >= slots:
        return leaf[:, :, :, :slots]
    return jnp.pad(leaf, [(0, slots - leaf.shape[3]) if axis == 3 else (0, 0) for axis in range(leaf.ndim)])
