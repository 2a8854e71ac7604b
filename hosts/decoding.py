"""Greedy decoding after questions: all rows together to the end, or letting go of those that are done."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from hosts.answering import extend, make_room
from hosts.llama import Params, logits
from hosts.rollout import Schedule
from hosts.stream import Engine, Stream, take_rows
from namm.cache import SlotCache
from namm.contract import Parameters
from namm.memory import Layout

LEAST = 4  # rows that are decoded to the end: the host's weights take as long to read for fewer


class Decoding(NamedTuple):
    """Answers on their way: see `make_room` for stream and past; length: tokens so far; out: -1 from a row's end on."""

    stream: Stream
    past: SlotCache | None
    length: Int[Array, ""]
    done: Bool[Array, " batch"]
    limits: Int[Array, " batch"]
    out: Int[Array, "batch step"]


def start_decoding(
    engine: Engine,
    params: Params,
    memory: Parameters,
    stream: Stream,
    question: Int[Array, "batch question"],
    question_length: Int[Array, " batch"],
    budget: Int[Array, " prompt"],
    schedule: Schedule,
    steps: int,
    limits: Int[Array, " batch"] | None = None,
) -> Decoding:
    """Read the questions and make room for answers of `steps` tokens, of a row's limit at most."""
    rows = len(question)
    stream, past, layout = make_room(stream, schedule, question.shape[1], steps)
    stream, _ = extend(engine, params, memory, stream, question, question_length, budget, schedule, layout, past)
    limits = jnp.full(rows, steps) if limits is None else limits
    return Decoding(stream, past, jnp.int32(0), jnp.zeros(rows, bool), limits, jnp.full((rows, steps), -1, jnp.int32))


def advance(
    engine: Engine,
    params: Params,
    memory: Parameters,
    decoding: Decoding,
    budget: Int[Array, " prompt"],
    schedule: Schedule,
    eos: tuple[int, ...],
    until: Int[Array, ""] | int = 0,
) -> Decoding:
    """Decode until at most `until` rows are left without an end: an end-of-sequence token or their limit."""
    past, limits, steps = decoding.past, decoding.limits, decoding.out.shape[1]
    slots, ends = decoding.stream.cache.keys.shape[3], jnp.array(eos, jnp.int32)
    layout = Layout(schedule.kept, slots - schedule.kept) if past is None else Layout(0, slots)
    call = partial(extend, engine, params, memory)

    def step(carry: tuple[Array, Stream, Array, Array]) -> tuple[Array, Stream, Array, Array]:
        index, stream, done, out = carry
        token = jnp.argmax(logits(params, engine.spec, stream.hidden), axis=-1).astype(jnp.int32)
        done = done | jnp.isin(token, ends) | (index >= limits)
        out = out.at[:, index].set(jnp.where(done, -1, token))
        counts = jnp.where(done, 0, 1)
        stream, _ = call(stream, token[:, None], counts, budget, schedule, layout, past)
        return index + 1, stream, done, out

    def going(carry: tuple[Array, Stream, Array, Array]) -> Array:
        return (carry[0] < steps) & (jnp.sum(~carry[2]) > until)

    index, stream, done, out = jax.lax.while_loop(
        going, step, (decoding.length, decoding.stream, decoding.done, decoding.out)
    )
    return Decoding(stream, past, index, done, limits, out)


def generate(
    engine: Engine,
    params: Params,
    memory: Parameters,
    stream: Stream,
    question: Int[Array, "batch question"],
    question_length: Int[Array, " batch"],
    budget: Int[Array, " prompt"],
    schedule: Schedule,
    steps: int,
    eos: tuple[int, ...],
    limits: Int[Array, " batch"] | None = None,
) -> Int[Array, "batch step"]:
    """All rows to the end: -1 after an end-of-sequence token, a row's limit or, at the latest, `steps`."""
    decoding = start_decoding(
        engine, params, memory, stream, question, question_length, budget, schedule, steps, limits
    )
    return advance(engine, params, memory, decoding, budget, schedule, eos).out


def finish(run: Callable[[Decoding, int], Decoding], decoding: Decoding) -> Int[np.ndarray, "batch step"]:
    """What `generate` gives, each time with half of the rows once no more than that are left.

    run: `advance` of a decoding until so many rows are left, compiled. A batch of which one answer is long costs little
    more than the long answer.
    """
    rows, steps = decoding.out.shape
    found, places = np.full((rows, steps), -1, np.int32), np.arange(rows)
    while True:
        half = len(places) // 2
        decoding = run(decoding, half if half >= LEAST else 0)
        done, index = np.asarray(decoding.done), int(decoding.length)
        found[places] = np.asarray(decoding.out)
        if done.all() or index >= steps:
            return found
        chosen = np.argsort(done, kind="stable")[:half]  # those without an end, and ended ones to fill up
        decoding, places = keep_rows(decoding, chosen), places[chosen]


@jax.jit
def keep_rows(decoding: Decoding, rows: Int[Array, " kept"]) -> Decoding:
    """The decoding of some rows alone."""
    past = jax.tree.map(lambda x: x[:, rows], decoding.past)
    rest = jax.tree.map(lambda x: x[rows], (decoding.done, decoding.limits, decoding.out))
    return Decoding(take_rows(decoding.stream, rows), past, decoding.length, *rest)
