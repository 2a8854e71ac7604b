"""Contexts through a frozen host under a memory: prefill with updates every `interval` tokens.

Two ways to use a memory share all code here. Streaming: `prefill` evicts while the context is read, as in use.
Recorded: `record` reads the context once with the full cache, `compress` evicts from the record for any number of
candidates. Contexts are right-padded integer arrays with their lengths; `left_to_right` takes left-padded ones.
"""

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from hosts.llama import Params
from hosts.stream import Engine, Stream, compress, population, read, relayout, start, tile_rows
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
