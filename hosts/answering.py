"""Questions and answers behind a context that `hosts.rollout` has read: slots for them, likelihoods of targets."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hosts.llama import Params, logits
from hosts.rollout import Schedule
from hosts.stream import Engine, Stream, compress, read, relayout, unwatched
from namm.cache import SlotCache
from namm.contract import Parameters
from namm.memory import Layout

BLOCK = 64  # tokens at most of an answer's blocks, of which no more are read than its batch needs; each copies the past
JUDGED = 8  # target tokens at once: the scores of a vocabulary for all of them are the largest array of a rollout


def settled(kept: int) -> Schedule:
    """The schedule of a cache that is judged no more: an interval that no answer fills."""
    return Schedule(interval=2**30, chunk=1, kept=kept)


class Likelihood(NamedTuple):
    """Teacher-forced scoring of a target: log p of each token (nats), whether greedy decoding would choose it, mask."""

    log_probability: Float[Array, "batch target"]
    greedy: Bool[Array, "batch target"]
    valid: Bool[Array, "batch target"]


def extend(
    engine: Engine,
    params: Params,
    memory: Parameters,
    stream: Stream,
    tokens: Int[Array, "batch query"],
    counts: Int[Array, " batch"],
    budget: Int[Array, " prompt"],
    schedule: Schedule,
    layout: Layout,
    past: SlotCache | None,
) -> tuple[Stream, Float[Array, "batch query hidden"]]:
    """Read a question (or one decoded token) behind the context (see `make_room` for `past`).

    Without `past`, an update follows in the rows whose window is full.
    """
    offset, watched = layout.kept + stream.window, past is None
    stream, hidden = read(engine, params, stream, tokens, counts, offset, observe=watched, past=past)
    if watched:
        due = stream.window >= schedule.interval
        stream = jax.lax.cond(
            jnp.any(due),
            lambda s: compress(engine, memory, s, budget, layout, due=due),
            lambda s: s,
            stream,
        )
    return stream, hidden


def falls_due(schedule: Schedule, window: int, question: int, steps: int) -> bool:
    """Whether an update can fall due while a question is read and answered; `window`: slots behind the kept ones."""
    pending = 0 if schedule.flush else window
    return pending + question + steps >= schedule.interval


def make_room(
    stream: Stream, schedule: Schedule, question: int, steps: int
) -> tuple[Stream, SlotCache | None, Layout]:
    """The stream with slots for question and answer, and the slots of the context where no update can fall due there.

    Those are only read from then on: a decoding step would otherwise copy them, which takes longer than to read them.
    """
    window = stream.cache.keys.shape[3] - schedule.kept
    if falls_due(schedule, window, question, steps):
        layout = Layout(schedule.kept, schedule.interval + question)
        return relayout(stream, Layout(schedule.kept, window), layout), None, layout
    layout = Layout(0, question + steps)
    tail = jax.tree.map(lambda x: jnp.zeros((*x.shape[:3], layout.window, *x.shape[4:]), x.dtype), stream.cache)
    return unwatched(stream)._replace(cache=tail), stream.cache, layout


def likelihood(
    engine: Engine,
    params: Params,
    memory: Parameters,
    stream: Stream,
    question: Int[Array, "batch query"],
    question_length: Int[Array, " batch"],
    target: Int[Array, "batch target"],
    target_length: Int[Array, " batch"],
    budget: Int[Array, " prompt"],
    schedule: Schedule,
) -> Likelihood:
    """Teacher-forced scoring of targets after questions; batch = rows of the stream. The head runs on targets alone."""
    steps = target.shape[1]
    tokens = join(question, question_length, target, target_length)
    blocks = -(-tokens.shape[1] // BLOCK)
    size = -(-tokens.shape[1] // blocks)
    tokens = jnp.pad(tokens, ((0, 0), (0, blocks * size - tokens.shape[1])))
    stream, past, layout = make_room(stream, schedule, tokens.shape[1], 0)
    counts = question_length + target_length - 1
    if past is None:
        _, hidden = extend(engine, params, memory, stream, tokens, counts, budget, schedule, layout, past)
    else:
        hidden = _read_blocks(engine, params, stream, tokens, counts, size, past)
    columns = jnp.minimum(question_length[:, None] - 1 + jnp.arange(steps), tokens.shape[1] - 1)
    states = jnp.take_along_axis(hidden, columns[..., None], axis=1)
    chosen, greedy = _judge(engine, params, states, target, jnp.max(target_length))
    valid = jnp.arange(steps) < target_length[:, None]
    return Likelihood(jnp.where(valid, chosen, 0.0), greedy & valid, valid)


def _judge(
    engine: Engine, params: Params, states: Array, target: Array, longest: Int[Array, ""]
) -> tuple[Float[Array, "batch target"], Bool[Array, "batch target"]]:
    """Log p of the targets, and whether each is the likeliest token, as far as the longest goes: zeros behind it."""
    size = min(JUDGED, target.shape[1])

    def block(index: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        begin = jnp.minimum(index * size, target.shape[1] - size)
        part, wanted = (jax.lax.dynamic_slice_in_dim(x, begin, size, axis=1) for x in (states, target))
        scores = logits(params, engine.spec, part)
        chosen = jnp.take_along_axis(scores, wanted[..., None], axis=-1)[..., 0] - jax.nn.logsumexp(scores, axis=-1)
        found = chosen, jnp.argmax(scores, axis=-1) == wanted
        return jax.tree.map(lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, begin, axis=1), carry, found)

    nothing = jnp.zeros(target.shape, jnp.float32), jnp.zeros(target.shape, bool)
    return jax.lax.fori_loop(0, -(-longest // size), block, nothing)


def _read_blocks(
    engine: Engine, params: Params, stream: Stream, tokens: Array, counts: Array, size: int, past: SlotCache
) -> Float[Array, "batch query hidden"]:
    """Hidden states of tokens behind a context that no update will touch, as many blocks as the longest row has."""

    def block(index: Array, carry: tuple[Stream, Array]) -> tuple[Stream, Array]:
        stream, hidden = carry
        begin = index * size
        part, seen = jax.lax.dynamic_slice_in_dim(tokens, begin, size, axis=1), jnp.clip(counts - begin, 0, size)
        stream, new = read(engine, params, stream, part, seen, begin, observe=False, past=past)
        return stream, jax.lax.dynamic_update_slice_in_dim(hidden, new, begin, axis=1)

    hidden = jnp.zeros((*tokens.shape, engine.spec.hidden), stream.hidden.dtype)
    return jax.lax.fori_loop(0, -(-jnp.max(counts) // size), block, (stream, hidden))[1]


def join(
    question: Array, question_length: Array, target: Array, target_length: Array
) -> Int[Array, "batch query"]:
    """Question and target without its last token, side by side in each row."""
    width = question.shape[1] + target.shape[1] - 1
    columns = jnp.arange(width)
    padded = jnp.pad(question, ((0, 0), (0, target.shape[1] - 1)))
    place = jnp.clip(columns - question_length[:, None], 0, target.shape[1] - 1)
    return jnp.where(columns < question_length[:, None], padded, jnp.take_along_axis(target, place, axis=1))
