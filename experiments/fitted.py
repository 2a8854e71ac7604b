"""A start for the search: a score fitted to how strongly question and answer attend to a context's tokens.

What the tokens to come will look at is known after the fact, from the full cache's own pass over question and answer:
a least-squares fit of its logarithm, one for every set of parameters of the memory, with more weight on the tokens that
are looked at most, since they alone decide what a small cache answers. A linear score is solved for, an MLP descends
(Adam). Where the memory has a threshold, a share of the tokens scores above it. Where layers or heads have budgets of
their own, these lose as little as can be of the attention that question and answer pay, all heads together.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PyTree

from experiments.objective import KEEP_ALL
from experiments.recordings import Record, stack
from experiments.tasks.encoding import Batch
from hosts.answering import join, make_room, settled
from hosts.llama import Params
from hosts.stream import Engine, Stream, read
from namm.artefact import Memory
from namm.content import standardise
from namm.contract import Observation, Parameters, PolicyState
from namm.model import NammPolicy
from namm.network import make_scorer
from namm.policies.base import BasePolicy
from namm.selection import WIDEST

ATTENDED = "attended"
FLOOR = 1e-5  # attention below it is as good as none
# A token weighs exp(standardised log attention), cut off here. Measured on SmolLM2 (32 prompts of 1024 tokens, a
# quarter kept, a set for every head): log-likelihood of a target token -0.506 with equal weights, -0.425 with 11 for
# those a standard deviation above their head's mean, -0.419 with this; full cache -0.403.
LEAST, MOST = -3.0, 4.0
RIDGE = 10.0  # of a linear score
PARTS = 64  # of a context, in which budgets of layers and heads are counted
STEPS, RATE, TOKENS = 1500, 3e-3, 4096  # of an MLP's descent: steps, their first length, tokens drawn for one


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


class Tokens(NamedTuple):
    """Tokens of prompts: what the scorer sees of them, and the standardised log attention that they get afterwards."""

    known: Float[Array | np.ndarray, "*axes slot width"]
    wanted: Float[Array | np.ndarray, "*axes slot"]
    valid: Bool[Array | np.ndarray, "*axes slot"]

    @property
    def weight(self) -> Float[Array, "*axes slot"]:
        return jnp.exp(jnp.clip(self.wanted, LEAST, MOST)) * self.valid


def _over(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of one layer and row, over all of them."""
    return jax.vmap(jax.vmap(function))


_attended = jax.jit(attended, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def _tokens(engine: Engine, frozen: Any, stream: Stream, paid: Array, share: Array | float) -> Tokens:
    """As a memory sees them that has read so much of the context. Axes: layer, batch, head."""
    read = stream.cache.positions < jnp.ceil(share * stream.seen)[:, None, None]
    cache = stream.cache._replace(valid=stream.cache.valid & read)
    known, _ = _over(partial(engine.policy.features, frozen))(stream.state, cache)  # type: ignore[attr-defined]
    return Tokens(known, _over(standardise)(jnp.log(paid + FLOOR), cache.valid), cache.valid)


def _seen(
    engine: Engine, params: Params, frozen: Any, batches: Iterable[list[Record]], shares: Iterable[float]
) -> Iterator[Tokens]:
    """Of every batch, once for each share of its contexts."""
    for records in batches:
        stream, prompt = stack(records)
        paid = _attended(engine, params, stream, prompt)
        yield from (_tokens(engine, frozen, stream, paid, share) for share in shares)


@partial(jax.jit, static_argnums=1)
def _moments(tokens: Tokens, shared: tuple[int, ...]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Weighted sums of products of the features (a 1 behind them) with themselves and with what is wanted."""
    known = jnp.concatenate([tokens.known, jnp.ones_like(tokens.known[..., :1])], axis=-1)
    weighted = known * tokens.weight[..., None]
    products = jnp.einsum("lbhsi,lbhsj->lhij", weighted, known)
    sums = jnp.einsum("lbhsi,lbhs->lhi", weighted, tokens.wanted)
    return jnp.sum(products, axis=shared), jnp.sum(sums, axis=shared)


def _solved(batches: Iterable[Tokens], shared: tuple[int, ...]) -> dict[str, dict[str, np.ndarray]]:
    """A linear score's parameters, by the normal equations in float64."""
    found = [[np.asarray(x, np.float64) for x in _moments(tokens, shared)] for tokens in batches]
    products, sums = (np.sum(parts, axis=0) for parts in zip(*found, strict=True))
    weights = np.linalg.solve(products + RIDGE * np.eye(products.shape[-1]), sums[..., None])[..., 0]
    return {"score": {"kernel": weights[..., :-1, None], "bias": weights[..., -1:]}}


def _descended(batches: Iterable[Tokens], policy: NammPolicy) -> dict[str, dict[str, np.ndarray]]:
    """An MLP's parameters, from random ones that see features of zero mean and unit variance."""
    parts = [jax.tree.map(lambda x: np.moveaxis(np.asarray(x), 1, 2), tokens) for tokens in batches]
    whole = Tokens(*(np.concatenate(leaf, axis=2) for leaf in zip(*parts, strict=True)))  # layer, head, batch, slot
    sets, width = policy.config.scorer.sets, policy.config.width
    count = math.prod(sets)
    known = whole.known.reshape(count, -1, width)
    wanted, valid = (x.reshape(count, -1) for x in (whole.wanted, whole.valid))
    mean = np.mean(known, axis=1, where=valid[..., None], keepdims=True)
    deviation = np.std(known, axis=1, where=valid[..., None], keepdims=True) + 1e-6
    start = jax.tree.map(lambda x: x.reshape(count, *x.shape[len(sets) :]), policy.initial_scorer()["params"])
    draw = jax.nn.initializers.lecun_normal(batch_axis=0)
    start["inner"]["kernel"] = draw(jax.random.key(0), start["inner"]["kernel"].shape)
    scorer = make_scorer("mlp", policy.config.scorer.hidden)
    found = _descend(scorer, start, Tokens((known - mean) / deviation, wanted, valid))
    for name in ("inner", "score"):  # of the features as they are
        layer = found[name]
        layer["kernel"] = layer["kernel"] / np.swapaxes(deviation, 1, 2)
        layer["bias"] = layer["bias"] - (mean @ layer["kernel"])[:, 0]
    return jax.tree.map(lambda x: x.reshape(*sets, *x.shape[1:]), found)


def _descend(scorer: Any, start: PyTree, tokens: Tokens) -> dict[str, dict[str, np.ndarray]]:
    """Adam on the weighted squared error of tokens drawn at random; every set by itself."""
    adam = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))

    def error(params: PyTree, drawn: Tokens) -> Array:
        scores = jax.vmap(lambda p, x, v: scorer.apply({"params": p}, x, v))(params, drawn.known, drawn.valid)
        weight = drawn.weight
        return jnp.sum(weight * (scores - drawn.wanted) ** 2) / jnp.sum(weight)

    def step(tokens: Tokens, carry: tuple[PyTree, PyTree], key: Array) -> tuple[tuple[PyTree, PyTree], None]:
        params, state = carry
        drawn = jax.random.randint(key, (TOKENS,), 0, tokens.wanted.shape[1])
        gradient = jax.grad(error)(params, jax.tree.map(lambda x: x[:, drawn], tokens))
        change, state = adam.update(gradient, state)
        return (optax.apply_updates(params, change), state), None

    @jax.jit
    def descend(tokens: Tokens, params: PyTree) -> PyTree:
        keys = jax.random.split(jax.random.key(1), STEPS)
        return jax.lax.scan(partial(step, tokens), (params, adam.init(params)), keys)[0][0]

    return jax.tree.map(np.asarray, descend(tokens, start))


@jax.jit
def _lost(
    scores: Float[Array, "layer head batch slot"], paid: Float[Array, "layer batch head slot"]
) -> Float[Array, "layer head batch part"]:
    """Attention that dropped tokens were paid where a head keeps 0, 1 .. PARTS parts of the context, best scores first.

    scores: NaN in empty slots.
    """
    best = jnp.argsort(-scores, axis=-1)  # NaN last
    paid = jnp.where(jnp.isnan(scores), 0.0, jnp.moveaxis(paid, 1, 2))
    kept = jnp.cumsum(jnp.take_along_axis(paid, best, axis=-1), axis=-1)
    kept = jnp.pad(kept, [(0, 0)] * 3 + [(1, 0)])
    length = jnp.sum(~jnp.isnan(scores), axis=-1, keepdims=True)
    at = jnp.ceil(jnp.arange(PARTS + 1) / PARTS * length).astype(jnp.int32)
    return kept[..., -1:] - jnp.take_along_axis(kept, at, axis=-1)


def least_lost(lost: Float[np.ndarray, "*heads part"], kept: float) -> Float[np.ndarray, "*heads"]:
    """Logarithms of the shares in a budget of `kept` of the context, on average, that lose the least in all.

    lost: by parts of the context that a head keeps, 0 to all of them. A head gets at most WIDEST budgets. One price of
    a part for all heads decides how many each takes; the price is found by bisection.
    """
    parts = np.linspace(0.0, 1.0, lost.shape[-1])
    lost = np.where(parts <= max(WIDEST * kept, parts[1]), lost, np.inf)
    low, high = 1e-9, float(np.max(lost[..., 0])) * len(parts) + 1.0
    for _ in range(100):
        price = math.sqrt(low * high)
        taken = parts[np.argmin(lost + price * parts, axis=-1)]
        low, high = (price, high) if taken.mean() > kept else (low, price)
    taken = parts[np.argmin(lost + high * parts, axis=-1)]
    return np.log(np.maximum(taken, parts[1] / 4) / kept)


@partial(jax.jit, static_argnums=0)
def scores_of(engine: Engine, memory: Parameters, stream: Stream) -> Float[Array, "layer head batch slot"]:
    """Scores; NaN in empty slots."""
    rows = jax.vmap(engine.policy.score, in_axes=(None, 0, 0))
    layered = Parameters(0, None) if engine.policy.layered else None  # type: ignore[arg-type]
    scores, _ = jax.vmap(rows, in_axes=(layered, 0, 0))(memory, stream.state, stream.cache)
    return jnp.moveaxis(jnp.where(stream.cache.valid, scores, jnp.nan), 1, 2)


def fitted(
    memory: Memory,
    engine: Engine,
    params: Params,
    batches: Callable[[], Iterable[list[Record]]],
    share: float,
    read: tuple[float, ...] = (1.0,),
    kept: float = 0.25,
) -> Memory:
    """The memory with its linear or MLP score fitted on these prompts, as the full cache read and answered them.

    batches: gives the prompts, from the first on at every call, so that few of them need be held at once (of an MLP's,
    what the memory sees of all tokens is held). share: of the prompts' tokens that score at or above the memory's
    threshold, in every head (in all heads that share a set of parameters); unused where it has none. read: shares of a
    context after which its tokens so far are judged, as a memory does while it reads. kept: of a context, on average;
    what layers or heads with budgets of their own share out.
    """
    policy, frozen = cast(NammPolicy, memory.policy), memory.params.frozen
    scorer = policy.config.scorer
    seen = _seen(engine, params, frozen, batches(), read)
    shared = tuple(range(len(scorer.sets), 2))  # layers, heads that share a set
    found = _solved(seen, shared) if scorer.kind == "linear" else _descended(seen, policy)

    def scoring(bias: np.ndarray) -> Parameters:
        parts = {**found, "score": {**found["score"], "bias": bias}}
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), parts)
        return Parameters({**memory.params.evolved, "params": params}, frozen)

    bias = found["score"]["bias"]
    if (threshold := memory.selection.threshold) is not None:
        begun = scoring(np.zeros_like(bias))
        scores = [np.asarray(scores_of(engine, begun, stack(records)[0])) for records in batches()]
        scores = np.concatenate([x.reshape(*x.shape[:2], -1) for x in scores], axis=2)
        bias = threshold - np.nanquantile(scores, 1.0 - share, axis=(*shared, 2))[..., None]
    new = scoring(bias)
    if policy.config.budgets:
        lost = []
        for records in batches():
            stream, prompt = stack(records)
            lost.append(_lost(scores_of(engine, new, stream), _attended(engine, params, stream, prompt)))
        lost = np.concatenate(lost, axis=2).mean(axis=(*range(len(policy.config.budgets), 2), 2))
        new.evolved["budgets"] = jnp.asarray(least_lost(lost, kept), jnp.float32)
    return replace(memory, params=new)
