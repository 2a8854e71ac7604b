"""How fast an accelerator rolls out, evicts and decodes, beside the least time that its measured limits allow."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.bench import laps
from experiments.costs import Cost, Entry, forward_cost, rollout_cost, update_cost
from experiments.objective import FULL, KEEP_ALL
from experiments.run_config import RunConfig
from experiments.training import warm_started
from hosts.answering import settled
from hosts.decoding import generate
from hosts.rollout import Schedule, prefill
from hosts.stream import Stream, compress, make_engine, unwatched
from hosts.weights import Host, load_host
from namm.artefact import Memory, make
from namm.cache import CacheShape
from namm.contract import NO_PARAMETERS, Parameters
from namm.memory import Layout
from namm.policies import load_policy

KEPT = 4  # tokens of a prompt for each that is kept
REPEATS = 10  # one copy by itself measured 2.35 TB/s on an H200, half of what its datasheet says


@dataclass(frozen=True)
class Sizes:
    """Of the timings: prompt length in tokens, rows (candidates x prompts), decoded tokens, repetitions."""

    length: int = 2048
    candidates: int = 32
    prompts: int = 8
    steps: int = 32
    rounds: int = 3

    def __post_init__(self) -> None:
        for one in fields(self):
            if getattr(self, one.name) < 1:
                raise ValueError(f"sizes.{one.name} is {getattr(self, one.name)}; expected 1 or more")
        if self.length < KEPT:
            raise ValueError(f"sizes.length is {self.length}; expected {KEPT} or more, of which 1 in {KEPT} is kept")


class Timing(NamedTuple):
    """Median seconds, what was counted, and the least seconds that the device's limits allow over those taken."""

    what: str
    seconds: float
    flops: float
    bytes: float
    share: float


class Limits(NamedTuple):
    """Operations a second of a large matrix product, and bytes a second of a copy, as measured."""

    flops: float
    bandwidth: float


def random_memory(run: RunConfig) -> Memory:
    """The recipe's memory with random weights: the start's would tie."""
    memory = warm_started(make(run.name, run.memory), run.warm_start)
    rng = np.random.default_rng(1)
    evolved = jax.tree.map(lambda x: x + 0.1 * jnp.asarray(rng.normal(size=x.shape), x.dtype), memory.params.evolved)
    return replace(memory, params=Parameters(evolved, memory.params.frozen))


def timings(run: RunConfig, sizes: Sizes) -> tuple[Limits, list[Timing]]:
    """Rollout of a population, one update of all its rows, one decoding step, against the limits."""
    host = load_host(run.host, dtype=run.dtype, rope=run.rope)
    kinds = (host.params["layers"]["query"].dtype, host.params["embedding"].dtype)
    entry = Entry(*(kind.itemsize for kind in kinds))
    spec, memory = host.spec, random_memory(run)
    pop, prompts, length, kept = sizes.candidates, sizes.prompts, sizes.length, sizes.length // KEPT
    engine = make_engine(spec, memory.policy, memory.selection, length)
    rows, schedule = pop * prompts, Schedule(memory.interval, min(128, memory.interval), kept)
    many = memory.population
    many = Parameters(jax.tree.map(lambda x: jnp.repeat(x, pop, axis=0), many.evolved), many.frozen)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, spec.vocabulary, (prompts, length)), jnp.int32)
    counts, budget = jnp.full(prompts, length, jnp.int32), jnp.full(prompts, kept, jnp.int32)
    limits = measure_limits(kinds[0], sizes.rounds)

    roll = jax.jit(partial(prefill, engine, schedule=schedule))
    taken = _seconds(lambda: roll(host.params, many, tokens, counts, budget, key=jax.random.key(0)), sizes.rounds)
    cost = rollout_cost(spec, pop, prompts, length, memory.interval, schedule.chunk, kept, entry)
    what = f"rollout of {pop} candidates x {prompts} prompts of {length} tokens, {rows * length / taken:.4g} tokens/s"
    found = [_timing(what, taken, cost, limits)]

    stream = roll(host.params, many, tokens, counts, budget, key=jax.random.key(0))
    layout = Layout(kept, memory.interval)
    evict = jax.jit(lambda memory, stream, budget: compress(engine, memory, stream, budget, layout))
    taken = _seconds(lambda: evict(many, stream, budget), sizes.rounds)
    cost = update_cost(spec, rows, layout.slots, kept, entry.other, _state_bytes(memory, host))
    found.append(_timing(f"memory update of {rows} rows of {layout.slots} slots", taken, cost, limits))

    step = _decoder(host, unwatched(stream), kept, sizes.steps)
    taken = _seconds(step, sizes.rounds) / sizes.steps
    cost = forward_cost(spec, rows, 1, kept, entry, head=True)
    found.append(_timing(f"decoding step of {rows} rows over {kept} slots", taken, cost, limits))
    return limits, found


def _decoder(host: Host, stream: Stream, kept: int, steps: int) -> Callable[[], Array]:
    """`steps` tokens for every row, none of which ends early."""
    engine, rows = make_engine(host.spec, load_policy(FULL), KEEP_ALL), stream.seen.shape[0]
    question, length = jnp.zeros((rows, 1), jnp.int32), jnp.ones(rows, jnp.int32)
    run = jax.jit(partial(generate, engine, schedule=settled(kept), steps=steps, eos=()))
    budget = jnp.full(rows, kept, jnp.int32)
    return lambda: run(host.params, NO_PARAMETERS, stream, question, length, budget)


def _state_bytes(memory: Memory, host: Host) -> int:
    """Bytes that the memory carries for a slot of one head."""
    shape = CacheShape(1, host.spec.group, 1, host.spec.head_dim)
    state = jax.eval_shape(lambda: memory.policy.init(shape, jax.random.key(0)))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.slots))


def measure_limits(dtype: Any, rounds: int) -> Limits:
    """A square matrix product and a scaled copy, large enough to fill the device, each many times in one program."""
    size, count = (8192, 2**28) if jax.default_backend() != "cpu" else (1024, 2**24)
    a, x = jnp.full((size, size), 1 / size, dtype), jnp.ones(count, jnp.float32)
    product = jax.jit(lambda a: jax.lax.fori_loop(0, REPEATS, lambda _, x: a @ x, a))
    copy = jax.jit(lambda x: jax.lax.fori_loop(0, REPEATS, lambda _, x: 0.5 * x, x))
    flops = 2 * size**3 * REPEATS / _seconds(lambda: product(a), rounds)
    return Limits(flops, 2 * x.nbytes * REPEATS / _seconds(lambda: copy(x), rounds))


def _seconds(call: Callable[[], Any], rounds: int) -> float:
    return float(np.median(laps([call], rounds)))


def _timing(what: str, seconds: float, cost: Cost, limits: Limits) -> Timing:
    return Timing(what, seconds, *cost, cost.seconds(*limits) / seconds)
