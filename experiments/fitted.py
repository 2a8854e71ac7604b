"""A start for the search: a linear score fitted to how strongly question and answer attend to a context's tokens.

What the tokens to come will look at is known after the fact, from the full cache's own pass over question and answer:
a least-squares fit of its logarithm, one for every set of parameters of the memory, with more weight on the tokens that
are looked at most, since they alone decide what a small cache answers. Where the memory has a threshold, a share of the
tokens scores above it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.objective import KEEP_ALL
from experiments.recordings import Record, stack
from experiments.tasks.encoding import Batch
from hosts.llama import Params
from hosts.rollout import join, make_room, settled
from hosts.stream import Engine, Stream, read
from namm.artefact import Memory
from namm.content import standardise
from namm.contract import Observation, Parameters, PolicyState
from namm.policies.base import BasePolicy

ATTENDED = "attended"
FLOOR = 1e-5  # attention below it is as good as none
# A token weighs exp(standardised log attention), cut off here. Measured on SmolLM2 (32 prompts of 1024 tokens, a
# quarter kept, a set for every head): log-likelihood of a target token -0.506 with equal weights, -0.425 with 11 for
# those a standard deviation above their head's mean, -0.419 with this; full cache -0.403.
LEAST, MOST = -3.0, 4.0
RIDGE = 10.0


@dataclass(frozen=True)
class _Asked(BasePolicy):
    """The most attention that any query has paid to each slot; scores nothing."""

    name = "asked"
    needs = frozenset({"attention"})

    def observe(self, state: PolicyState, observation: Observation) -> PolicyState:
        real = jnp.arange(observation.attention.shape[1]) < observation.count
        most = jnp.max(jnp.where(real[:, None], observation.attention, 0.0), axis=1)
        return state._replace(running={ATTENDED: jnp.maximum(state.running[ATTENDED], most)})


def attended(engine: Engine, params: Params, stream: Stream, prompt: Batch) -> Float[Array, "layer batch head slot"]:
    """The most attention, mean over a KV head's query heads, that a token of question or answer pays to each slot."""
    question, asked, target, answered = map(jnp.asarray, prompt[2:])
    tokens = join(question, asked, target, answered)
    shape = stream.cache.keys.shape
    room, past, _ = make_room(stream, settled(shape[3]), tokens.shape[1], 0)
    zeros = jnp.zeros((*shape[:3], shape[3] + tokens.shape[1]), jnp.float32)
    watcher = Engine(engine.spec, _Asked(), KEEP_ALL, engine.length)
    room = room._replace(state=PolicyState({}, {ATTENDED: zeros}))
    done, _ = read(watcher, params, room, tokens, asked + answered - 1, 0, past=past)
    return done.state.running[ATTENDED][..., : shape[3]]


def _features(engine: Engine, frozen: Any, stream: Stream) -> Float[Array, "layer batch head slot width"]:
    known, _ = _over(partial(engine.policy.features, frozen))(stream.state, stream.cache)  # type: ignore[attr-defined]
    return known


def _over(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of one layer and row, over all of them."""
    return jax.vmap(jax.vmap(function))


@partial(jax.jit, static_argnums=0)
def _moments(
    engine: Engine, params: Params, frozen: Any, stream: Stream, prompt: Batch
) -> tuple[Float[Array, "layer head width width"], Float[Array, "layer head width"]]:
    """Weighted sums of products of the features (a 1 behind them) with themselves and with the log attention."""
    wanted = jnp.log(attended(engine, params, stream, prompt) + FLOOR)
    known = _features(engine, frozen, stream)
    known = jnp.concatenate([known, jnp.ones_like(known[..., :1])], axis=-1)
    wanted = _over(standardise)(wanted, stream.cache.valid)
    weight = jnp.exp(jnp.clip(wanted, LEAST, MOST)) * stream.cache.valid
    weighted = known * weight[..., None]
    return jnp.einsum("lbhsi,lbhsj->lhij", weighted, known), jnp.einsum("lbhsi,lbhs->lhi", weighted, wanted)


@partial(jax.jit, static_argnums=0)
def _scores(
    engine: Engine, frozen: Any, kernel: Float[Array, "layer head width"], stream: Stream
) -> Float[Array, "layer head batch slot"]:
    """Scores without a bias; NaN in empty slots."""
    scores = jnp.einsum("lbhsi,lhi->lhbs", _features(engine, frozen, stream), kernel)
    return jnp.where(jnp.moveaxis(stream.cache.valid, 1, 2), scores, jnp.nan)


def fitted(
    memory: Memory, engine: Engine, params: Params, batches: Callable[[], Iterable[list[Record]]], share: float
) -> Memory:
    """The memory with its linear score fitted on these prompts, as the full cache read and answered them.

    batches: gives the prompts, from the first on at every call, so that few of them need be held at once. share: of the
    prompts' tokens that score at or above the memory's threshold, in every head (in all heads that share a set of
    parameters); unused where it has none.
    """
    products, sums = 0.0, 0.0
    for records in batches():
        found = _moments(engine, params, memory.params.frozen, *stack(records))
        products, sums = (old + np.asarray(new, np.float64) for old, new in zip((products, sums), found, strict=True))
    sets = memory.policy.config.scorer.sets  # type: ignore[attr-defined]
    together = tuple(range(len(sets), 2))  # layers, heads that share a set
    products, sums = (np.sum(x, axis=together) for x in (products, sums))
    weights = np.linalg.solve(products + RIDGE * np.eye(products.shape[-1]), sums[..., None])[..., 0]
    kernel, bias = weights[..., :-1], weights[..., -1:]
    if (threshold := memory.selection.threshold) is not None:
        shape = (engine.spec.layers, engine.spec.kv_heads, kernel.shape[-1])
        each = jnp.asarray(np.broadcast_to(np.expand_dims(kernel, together), shape), jnp.float32)
        scores = [_scores(engine, memory.params.frozen, each, stack(records)[0]) for records in batches()]
        scores = np.concatenate([np.asarray(x).reshape(*x.shape[:2], -1) for x in scores], axis=2)
        bias = threshold - np.nanquantile(scores, 1.0 - share, axis=(*together, 2))[..., None]
    parts = {"kernel": kernel[..., None], "bias": bias}
    score = {name: jnp.asarray(part, jnp.float32) for name, part in parts.items()}
    return replace(memory, params=Parameters({"params": {"score": score}}, memory.params.frozen))
