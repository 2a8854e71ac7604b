"""Prompts through a frozen host under a memory: prefill with updates every `interval` tokens, then answers.

Two ways to use a memory share all code here. Streaming: `prefill` evicts while the context is read, as in use.
Recorded: `record` reads the context once with the full cache, `compress` evicts from the record for any number of
candidates. Contexts are right-padded integer arrays with their lengths; `left_to_right` takes left-padded ones.
"""

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hosts.llama import Params, logits
from hosts.stream import Engine, Stream, compress, population, read, relayout, start, tile_rows, unwatched
from namm.cache import SlotCache
from namm.contract import Parameters
from namm.memory import Layout

SEGMENTS = 4  # each is compiled by itself; four save 3/4 of what an ever-growing cache would


class Schedule(NamedTuple):
    """When updates happen and how much may stay: tokens between updates, per chunk, and kept slots at most.

    flush: update once more at the end of the context, so that the question and the answer meet a cache within budget;
    without it the last context % interval tokens wait for decoding, as in the original.
    """

    interval: int
    chunk: int
    kept: int
    flush: bool = True


def settled(kept: int) -> Schedule:
    """The schedule of a cache that is judged no more: an interval that no answer fills."""
    return Schedule(interval=2**30, chunk=1, kept=kept)


class Likelihood(NamedTuple):
    """Teacher-forced scoring of a target: log p of each token (nats), whether greedy decoding would choose it, mask."""

    log_probability: Float[Array, "batch target"]
    greedy: Bool[Array, "batch target"]
    valid: Bool[Array, "batch target"]


def left_to_right(
    tokens: Int[Array, "batch query"], mask: Bool[Array, "batch query"]
) -> tuple[Int[Array, "batch query"], Int[Array, " batch"]]:
    """Left-padded tokens with their mask to right-padded tokens with their lengths."""
    lengths = jnp.sum(mask, axis=1).astype(jnp.int32)
    shift = lambda row, length: jnp.roll(row, length, axis=0)  # noqa: E731
    return jax.vmap(shift)(tokens, lengths), lengths


def _scan_chunks(
    engine: Engine, params: Params, stream: Stream, tokens: Array, lengths: Array, schedule: Schedule, kept: int
) -> Stream:
    """Read a window's columns chunk by chunk into the slots behind `kept`; lengths count within these columns."""
    width = tokens.shape[1]
    chunks = -(-width // schedule.chunk)
    padded = jnp.pad(tokens, ((0, 0), (0, chunks * schedule.chunk - width)))
    parts = jnp.moveaxis(padded.reshape(len(tokens), chunks, schedule.chunk), 1, 0)

    def step(stream: Stream, inputs: tuple[Array, Array]) -> tuple[Stream, None]:
        part, begin = inputs
        counts = jnp.clip(lengths - begin, 0, schedule.chunk)
        return read(engine, params, stream, part, counts, kept + begin)[0], None

    return jax.lax.scan(step, stream, (parts, jnp.arange(chunks) * schedule.chunk))[0]


def _window_slots(width: int, chunk: int) -> int:
    return -(-width // chunk) * chunk


def record(
    engine: Engine, params: Params, context: Int[Array, "batch query"], lengths: Int[Array, " batch"], chunk: int,
    key: Array,
) -> Stream:
    """Read whole contexts with the full cache: what any candidate may later be judged on without reading them again.

    The cache grows in up to SEGMENTS steps, so that attention does not pay for slots that are still empty.
    """
    chunks = -(-context.shape[1] // chunk)
    ends = sorted({-(-chunks * part // SEGMENTS) * chunk for part in range(1, SEGMENTS + 1)})
    stream = start(engine, params, len(context), ends[0], key)
    for begin, end in pairwise([0, *ends]):
        stream = relayout(stream, Layout(0, begin), Layout(0, end))
        part, schedule = context[:, begin:end], Schedule(end, chunk, 0)
        stream = _scan_chunks(engine, params, stream, part, lengths - begin, schedule, begin)
    return stream


def prefill(
    engine: Engine,
    params: Params,
    memory: Parameters,
    context: Int[Array, "batch query"],
    lengths: Int[Array, " batch"],
    budget: Int[Array, " batch"],
    schedule: Schedule,
    key: Array,
) -> Stream:
    """Read contexts with an update every `interval` tokens, for every candidate of `memory` (leading pop axis).

    Returns pop x batch rows, candidate-major, with slots Layout(schedule.kept, window) where window is the interval.
    """
    shared = read_together(engine, params, memory, context, lengths, budget, schedule, key)
    return read_apart(engine, params, memory, shared, context, lengths, budget, schedule)


class Shared(NamedTuple):
    """Contexts as far as they are alike for all candidates: what was read, up to an update that may drop something.

    alike: windows behind the first one that are in the stream, None where every candidate goes on from the first.
    """

    stream: Stream
    alike: Int[Array, ""] | None


def _places(width: int, schedule: Schedule) -> tuple[int, int, Layout]:
    """Columns of the first window, whole windows behind it, and the slots of a stream between updates."""
    first = min(schedule.interval, width)
    layout = Layout(schedule.kept, _window_slots(first, schedule.chunk))
    return first, (width - first) // schedule.interval, layout


def _window(
    engine: Engine, params: Params, stream: Stream, tokens: Array, lengths: Array, begin: Array | int,
    schedule: Schedule,
) -> Stream:
    """Read the columns `tokens` of the contexts, which begin at column `begin`."""
    counts = jnp.clip(lengths - begin, 0, tokens.shape[1])
    return _scan_chunks(engine, params, stream, tokens, counts, schedule, schedule.kept)


def _settle(
    engine: Engine, memory: Parameters, stream: Stream, lengths: Array, begin: Array | int, budget: Array,
    schedule: Schedule, layout: Layout,
) -> Stream:
    """The update at the end of a window, for the rows that have tokens in it."""
    due = lengths > begin if schedule.flush else stream.window >= schedule.interval
    return compress(engine, memory, stream, budget, layout, due=due)


def _columns(tokens: Array, place: Array, interval: int) -> tuple[Array, Array]:
    begin = (place + 1) * interval
    return jax.lax.dynamic_slice_in_dim(tokens, begin, interval, axis=1), begin


def read_together(
    engine: Engine, params: Params, memory: Parameters, context: Array, lengths: Array, budget: Array,
    schedule: Schedule, key: Array,
) -> Shared:
    """What is alike for all candidates, once per prompt (arguments as for `prefill`).

    The first window, and where there is no threshold as many more as fit in the smallest budget.
    """
    interval = schedule.interval
    first, full, layout = _places(context.shape[1], schedule)
    stream = record(engine, params, context[:, :first], jnp.minimum(lengths, first), schedule.chunk, key)
    if not (full > 0 and population(memory) > 1 and engine.selection.threshold is None):
        return Shared(stream, None)
    one = memory._replace(evolved=jax.tree.map(lambda x: x[:1], memory.evolved))

    def window(place: Array, stream: Stream) -> Stream:
        """One candidate's update stands for all of them: it drops nothing."""
        part, begin = _columns(context, place, interval)
        stream = _settle(engine, one, stream, lengths, begin - interval, budget, schedule, layout)
        return _window(engine, params, stream, part, lengths, begin, schedule)

    alike = jnp.minimum(jnp.min(budget) // interval, full)
    stream = relayout(stream, Layout(0, layout.window), layout)
    return Shared(jax.lax.fori_loop(0, alike, window, stream), alike)


def read_apart(
    engine: Engine, params: Params, memory: Parameters, shared: Shared, context: Array, lengths: Array, budget: Array,
    schedule: Schedule,
) -> Stream:
    """The rest of the contexts, for every candidate by itself (arguments and result as for `prefill`)."""
    interval, width = schedule.interval, context.shape[1]
    first, full, layout = _places(width, schedule)
    settle = partial(_settle, engine, memory, budget=budget, schedule=schedule, layout=layout)
    rows, row_lengths = tile_rows((context, lengths), population(memory))
    stream, alike = shared

    def window(place: Array, stream: Stream) -> Stream:
        part, begin = _columns(rows, place, interval)
        return settle(_window(engine, params, stream, part, row_lengths, begin, schedule), row_lengths, begin)

    if alike is not None:
        stream = settle(stream, lengths, alike * interval)
    elif schedule.flush:
        stream = compress(engine, memory, stream, budget, layout)
    else:
        stream = settle(relayout(stream, Layout(0, layout.window), layout), lengths, 0)
    if full:
        stream = jax.lax.fori_loop(0 if alike is None else alike, full, window, stream)
    begin = first + full * interval
    if begin < width:
        stream = _window(engine, params, stream, rows[:, begin:], row_lengths, begin, schedule)
        stream = settle(stream, row_lengths, begin)
    return stream


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
    stream, past, layout = make_room(stream, schedule, tokens.shape[1], 0)
    counts = question_length + target_length - 1
    _, hidden = extend(engine, params, memory, stream, tokens, counts, budget, schedule, layout, past)
    columns = question_length[:, None] - 1 + jnp.arange(steps)
    states = jnp.take_along_axis(hidden, jnp.minimum(columns, tokens.shape[1] - 1)[..., None], axis=1)
    scores = logits(params, engine.spec, states)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(scores), target[..., None], axis=-1)[..., 0]
    valid = jnp.arange(steps) < target_length[:, None]
    return Likelihood(jnp.where(valid, chosen, 0.0), (jnp.argmax(scores, axis=-1) == target) & valid, valid)


def join(
    question: Array, question_length: Array, target: Array, target_length: Array
) -> Int[Array, "batch query"]:
    """Question and target without its last token, side by side in each row."""
    width = question.shape[1] + target.shape[1] - 1
    columns = jnp.arange(width)
    padded = jnp.pad(question, ((0, 0), (0, target.shape[1] - 1)))
    place = jnp.clip(columns - question_length[:, None], 0, target.shape[1] - 1)
    return jnp.where(columns < question_length[:, None], padded, jnp.take_along_axis(target, place, axis=1))
