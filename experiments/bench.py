"""`namm bench`: speed of the parts, as ratios of two things timed in turn in one run."""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from rich.console import Console
from rich.table import Table

from evolve.strategy import SearchConfig, make_strategy
from experiments.evaluate import Evaluator
from experiments.objective import FULL, KEEP_ALL, UseConfig, score_recorded, score_streaming
from experiments.prompts import PromptSource, TaskMix
from experiments.recipes import smollm2, smollm2_heads
from experiments.run_config import Precision
from experiments.tasks.encoding import Batch
from experiments.tasks.ruler import RULER
from hosts.decoding import generate
from hosts.llama import Params, embed, forward
from hosts.rollout import Schedule, prefill, record
from hosts.stream import Engine, make_engine, population, tile_rows
from hosts.weights import Host, load_host
from namm.artefact import Memory, make, training_free
from namm.cache import CacheShape
from namm.config import MemoryConfig
from namm.contract import Parameters
from namm.selection import SelectionConfig

Part = Literal[
    "host", "window", "population", "update", "recorded", "search", "evaluation", "state", "strategy", "peak"
]


@dataclass(frozen=True)
class BenchConfig:
    """What to time. Sizes suit two CPU cores.

    parts: host = prefill against its matrix products alone; window = first window shared or not; population =
    candidates batched over shared weights against one at a time; update = share of the memory in a rollout; recorded =
    recorded against streaming scoring; search = one candidate and prompt at a time, writing answers as the original
    does or scoring the target, against either way of scoring a generation; evaluation = prompts one at a time against
    batches; state = carried bytes; strategy = ask and tell; peak = memory of a long rollout. budget, interval: in
    search, the share of the context that is kept and the tokens between updates (None: each memory's own). dtype: of
    the host in host, window, update, recorded, search and evaluation.
    """

    parts: tuple[Part, ...] = get_args(Part)
    host: str = "smollm2-135m"
    rounds: int = 5
    length: int = 1024
    budget: float = 0.25
    interval: int | None = None
    dtype: Precision = "float32"
    folder: Path = Path("runs/bench")

    def __post_init__(self) -> None:
        if not 0 < self.budget <= 1:
            raise ValueError(f"budget is {self.budget}; expected a share of the context, above 0 and at most 1")
        if self.interval is not None and self.interval < 1:
            raise ValueError(f"interval is {self.interval}; expected 1 or more tokens")


@dataclass(frozen=True)
class Ratio:
    """first / second, medians over rounds of pairs; seconds are medians too."""

    what: str
    aim: str
    first: float
    second: float
    ratio: float
    unit: str = "s"


def laps(calls: Sequence[Callable[[], Any]], rounds: int) -> Float[np.ndarray, "rounds call"]:
    """Seconds of every call, in turn; each runs once beforehand to compile."""

    def seconds(call: Callable[[], Any]) -> float:
        begin = time.perf_counter()
        jax.block_until_ready(call())
        return time.perf_counter() - begin

    for call in calls:
        seconds(call)
    return np.array([[seconds(call) for call in calls] for _ in range(rounds)])


def paired(first: Float[np.ndarray, " rounds"], second: Float[np.ndarray, " rounds"]) -> tuple[float, float, float]:
    """Medians of both and of their pairwise ratios."""
    return float(np.median(first)), float(np.median(second)), float(np.median(first / second))


def in_turn(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[float, float, float]:
    """Seconds of both and the median of their pairwise ratios."""
    return paired(*laps((first, second), rounds).T)


def namm_memory(interval: int, features: tuple[str, ...] = ("recency", "spectrum")) -> Memory:
    """The default 4172-parameter memory under a budget."""
    return make("namm", MemoryConfig(features, interval=interval, selection=SelectionConfig(threshold=None)))


def products(params: Any, hidden: Array) -> Array:
    """The matrix products of a forward over [rows, hidden], and nothing else."""

    def layer(x: Array, weights: Any) -> tuple[Array, None]:
        query, key, value = (x @ weights[name] for name in ("query", "key", "value"))
        attended = query @ weights["output"]
        up = (x @ weights["gate"]) + (x @ weights["up"])
        return attended + up @ weights["down"] + jnp.sum(key) + jnp.sum(value), None

    return jax.lax.scan(layer, hidden, params["layers"])[0]


def bench_host(host: Host, rounds: int) -> list[Ratio]:
    """Prefill and a plain causal forward against their projections alone (attention's products count as overhead)."""
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, host.spec.vocabulary, (1, 512)), jnp.int32)
    engine = make_engine(host.spec, training_free(FULL).policy, KEEP_ALL)
    read = jax.jit(partial(record, engine), static_argnames="chunk")
    bare = jax.jit(lambda p, t: products(p, embed(p, t)[0]))
    alone = partial(bare, host.params, tokens)
    lengths, key = jnp.array([512], jnp.int32), jax.random.key(0)
    rows = []
    for chunk, aim in ((256, "0.80"), (128, "")):
        cached = partial(read, host.params, tokens, lengths, chunk=chunk, key=key)
        a, b, ratio = in_turn(alone, cached, rounds)
        what = f"matrix products / slot-cache prefill in chunks of {chunk}, {512 / b:.0f} tokens/s"
        rows.append(Ratio(what, aim, a, b, ratio))
    plain = partial(jax.jit(forward, static_argnums=1), host.params, host.spec, tokens)
    a, b, ratio = in_turn(alone, plain, rounds)
    rows.append(Ratio(f"matrix products / plain forward with all logits, {512 / b:.0f} tokens/s", "", a, b, ratio))
    return rows


def _streaming(host: Host, memory: Memory, pop: int, batch: int, length: int, budget: float) -> Callable[[], Any]:
    """Prefill of `batch` prompts for `pop` candidates."""
    kept = int(budget * length)
    engine = make_engine(host.spec, memory.policy, memory.selection, length)
    schedule = Schedule(memory.interval, min(128, memory.interval), kept)
    one = memory.population
    many = Parameters(jax.tree.map(lambda x: jnp.repeat(x, pop, axis=0), one.evolved), one.frozen)
    rng = np.random.default_rng(0)
    context = jnp.asarray(rng.integers(0, host.spec.vocabulary, (batch, length)), jnp.int32)
    run = jax.jit(partial(prefill, engine, schedule=schedule))
    sizes = jnp.full(batch, length, jnp.int32), jnp.full(batch, kept, jnp.int32)
    return lambda: run(host.params, many, context, *sizes, key=jax.random.key(0)).hidden


def bench_window(host: Host, rounds: int) -> list[Ratio]:
    """Four candidates on one prompt of two windows: as one population, and as four prompts that share nothing."""
    memory = namm_memory(256)
    a, b, ratio = in_turn(
        _streaming(host, memory, 1, 4, 512, 0.25), _streaming(host, memory, 4, 1, 512, 0.25), rounds
    )
    return [Ratio("first window read by every candidate / shared, 512 tokens, interval 256", "", a, b, ratio)]


def bench_population(host: Host, rounds: int) -> list[Ratio]:
    """16 candidates x 4 prompts at once against one candidate and prompt at a time, by either way of scoring."""
    memory = namm_memory(64)
    single = _streaming(host, memory, 1, 1, 256, 0.25)

    def one_by_one() -> Any:
        return [jax.block_until_ready(single()) for _ in range(64)][-1]

    a, b, ratio = in_turn(one_by_one, _streaming(host, memory, 16, 4, 256, 0.25), rounds)
    live = Ratio("one candidate at a time / population batched, pocket, 64 streaming rollouts", "3", a, b, ratio)
    linear = make("linear", replace(smollm2.CONFIG.memory, interval=64))
    source = PromptSource(host, TaskMix(("pocket-recall",), 256))
    scorers = partial(_scorers, host, source, linear, chunk=64, use=UseConfig())
    alone = [scorers(1, [index]).recorded for index in range(4)]

    def each() -> Any:
        return [jax.block_until_ready(score()) for _ in range(16) for score in alone][-1]

    a, b, ratio = in_turn(each, scorers(16, [0, 1, 2, 3]).recorded, rounds)
    return [live, Ratio("the same, 64 recorded scorings, linear scorer", "3", a, b, ratio)]


def bench_update(host: Host, length: int, rounds: int) -> list[Ratio]:
    """A rollout under the evolved kind of memory against one under a sliding window, which costs next to nothing."""
    free = training_free("sliding-window", 512)
    a, b, ratio = in_turn(
        _streaming(host, namm_memory(512), 1, 2, length, 0.25), _streaming(host, free, 1, 2, length, 0.25), rounds
    )
    return [Ratio(f"share of the memory in a rollout of {length} tokens", "at most 0.15", a, b, 1 - 1 / ratio)]


def bench_recorded(host: Host, length: int, rounds: int) -> list[Ratio]:
    """Scoring 4 candidates on 2 prompts, teacher-forced, by either way: the paper's scorer, the default recipe's."""
    linear = make("linear", replace(smollm2.CONFIG.memory, interval=128))
    return [_recorded_ratio(host, memory, length, rounds) for memory in (namm_memory(128), linear)]


def _recorded_ratio(host: Host, memory: Memory, length: int, rounds: int) -> Ratio:
    source = PromptSource(host, TaskMix(("niah-single",), length))
    scorers = _scorers(host, source, memory, 4, [0, 1], 128, UseConfig())
    a, b, ratio = in_turn(scorers.streaming, scorers.recorded, rounds)
    what = f"streaming / recorded scoring, {length} tokens, 4 candidates x 2 prompts, {memory.name}"
    return Ratio(what, "10", a, b, ratio)


def bench_search(host: Host, length: int, budget: float, interval: int | None, rounds: int) -> list[Ratio]:
    """Seconds a candidate and prompt: the paper's memory and a score for every head."""
    own = smollm2_heads.CONFIG.memory
    sets = replace(own.scorer, sets=(host.spec.layers, host.spec.kv_heads))
    heads = make("a linear score a head", replace(own, scorer=sets, interval=interval or own.interval))
    paper = namm_memory(interval or MemoryConfig().interval)
    return [row for memory in (paper, heads) for row in _search_ratios(host, memory, length, budget, rounds)]


def _search_ratios(host: Host, memory: Memory, length: int, budget: float, rounds: int) -> list[Ratio]:
    source, prompts = PromptSource(host, TaskMix(("ruler/niah_single_2",), length)), [0, 1]
    scorers = partial(_scorers, host, source, memory, chunk=128, use=UseConfig(budget=budget))
    alone, many = [scorers(1, [index]) for index in prompts], scorers(16, prompts)
    calls = (
        lambda: [jax.block_until_ready(one.generating()) for one in alone][-1],
        lambda: [jax.block_until_ready(one.streaming()) for one in alone][-1],
        many.streaming, many.reading, many.recorded,
    )  # fmt: skip
    written, forced, live, reading, recorded = (laps(calls, rounds) / [2, 2, 32, 32, 32]).T
    ways = (
        ("16 candidates x 2 prompts while reading", "3", live),
        ("16 x 2 recorded and read for this generation alone", "", recorded + reading),
        ("16 x 2 recorded, read before", "20", recorded),
    )
    kept = f"{budget:.3g} kept, {memory.name} every {memory.interval}"
    what = f"one candidate and prompt at a time, {length} tokens, {kept}"
    bases = ((f"{what}, {source.steps} written / ", written), (f"{what}, the target scored / ", forced))
    return [
        Ratio(base + way, aim if seconds is written else "", *paired(seconds, ours))
        for base, seconds in bases
        for way, aim, ours in ways
    ]


class Scorers(NamedTuple):
    """Ways of scoring the same candidates on the same prompts.

    streaming, recorded: teacher-forced, evicting while reading or from a record. reading: for that record. generating:
    as the original does, evicting while reading, then writing greedily to the task's limit or an end of sequence.
    """

    streaming: Callable[[], Any]
    recorded: Callable[[], Any]
    reading: Callable[[], Any]
    generating: Callable[[], Any]


def _scorers(
    host: Host, source: PromptSource, memory: Memory, pop: int, indices: list[int], chunk: int, use: UseConfig
) -> Scorers:
    engine = make_engine(host.spec, memory.policy, memory.selection, source.mix.length)
    prompt = jax.tree.map(jnp.asarray, source.batch("train", indices))
    kept = use.kept(source.widths.context, memory.selection.widest)
    budget = jnp.full(len(indices), use.kept(source.widths.context), jnp.int32)
    one = memory.population
    many = Parameters(jax.tree.map(lambda x: jnp.repeat(x, pop, axis=0), one.evolved), one.frozen)
    read = partial(
        jax.jit(partial(record, engine, chunk=chunk)),
        *(host.params, prompt.context, prompt.context_length),
        key=jax.random.key(0),
    )
    stream = cache(read)  # read at the first call, if there is one
    write = jax.jit(_written, static_argnums=(0, 5, 6))
    schedule = Schedule(memory.interval, chunk, kept)
    return Scorers(
        lambda: score_streaming(engine, host.params, many, prompt, budget, schedule, jax.random.key(0)),
        lambda: score_recorded(engine, host.params, many, stream(), prompt, budget, kept),
        read,
        partial(write, engine, host.params, many, prompt, budget, schedule, source.steps),
    )


def _written(
    engine: Engine, params: Params, memory: Parameters, prompt: Batch, budget: Array, schedule: Schedule, steps: int
) -> Array:
    """Answers of every candidate, written token by token."""
    key = jax.random.key(0)
    stream = prefill(engine, params, memory, prompt.context, prompt.context_length, budget, schedule, key)
    question, length = tile_rows((prompt.question, prompt.question_length), population(memory))
    return generate(engine, params, memory, stream, question, length, budget, schedule, steps, engine.spec.eos_ids)


def bench_evaluation(host: Host, length: int, rounds: int) -> list[Ratio]:
    """Tasks of RULER with the full cache, one prompt at a time against a batch of eight."""
    source = PromptSource(host, TaskMix(tuple(task.name for task in RULER), length))
    memories, prompts = [training_free(FULL)], 8

    def run(batch: int) -> Any:
        return Evaluator(source, memories, UseConfig("streaming"), batch).run("test", prompts, lambda _: None, 0)

    what = f"evaluation, {prompts} prompts of RULER at {length} tokens: one at a time / together"
    return [Ratio(what, "at least 2", *in_turn(partial(run, 1), partial(run, prompts), rounds))]


def bench_state(host: Host) -> list[Ratio]:
    """Bytes carried per slot, layer and KV head, beside those of its key and value."""
    shape = CacheShape(1, host.spec.group, 1, host.spec.head_dim)
    state = namm_memory(512).policy.init(shape, jax.random.key(0)).slots
    carried = float(sum(x.size * x.dtype.itemsize for x in state.values()))
    pair = float(2 * host.spec.head_dim * host.params["embedding"].dtype.itemsize)
    return [Ratio("carried state / key and value, a slot", "at most 1024 B", carried, pair, carried / pair, "B")]


def bench_strategy(rounds: int) -> list[Ratio]:
    """ask + tell of the default search and of the paper's, at 4172 parameters and 32 candidates."""
    rows, seconds = [], {}
    for algorithm in ("sep-cma-es", "cma-es"):
        like = {"x": jnp.zeros(4172)}
        strategy = make_strategy(SearchConfig(algorithm), like)
        state = strategy.init(jax.random.key(0), like)
        times = []
        for generation in range(rounds + 1 if algorithm == "sep-cma-es" else 26):
            begin = time.perf_counter()
            population, state = strategy.ask(jax.random.key(generation), state)
            state, _ = strategy.tell(population, np.random.default_rng(generation).normal(size=32), state)
            times.append(time.perf_counter() - begin)
        seconds[algorithm] = float(np.mean(times[1:]))
    base = seconds["sep-cma-es"]
    rows.append(Ratio("ask + tell, sep-cma-es, mean", "at most 0.05 s", base, base, 1.0))
    full = seconds["cma-es"]
    return [*rows, Ratio("ask + tell, full cma-es, mean over 25 generations", "at most 3 s", full, base, full / base)]


def bench_peak(name: str) -> list[Ratio]:
    """Peak resident memory of a 4096-token rollout against one of 1024 tokens, each in a process of its own."""
    program = "import sys; from experiments.bench import peak_of; print(peak_of(sys.argv[1], int(sys.argv[2])))"
    found = []
    for length in (4096, 1024):
        command = [sys.executable, "-c", program, name, str(length)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(float(result.stdout.split()[-1]) / 2**20)
    what = "peak memory, rollout of 4096 / 1024 tokens, capacity 256 + 128"
    return [Ratio(what, "1", found[0], found[1], found[0] / found[1], "MiB")]


def peak_of(name: str, length: int) -> int:
    """Run a rollout under a fixed capacity and return this process's peak resident bytes."""
    host = load_host(name, tokenizer=False)
    jax.block_until_ready(_streaming(host, namm_memory(128), 1, 1, length, 256 / length)())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bench(config: BenchConfig, console: Console) -> list[Ratio]:
    """Run the parts, print a table, write bench.json."""
    host = load_host(config.host, dtype=config.dtype)
    parts: dict[str, Callable[[], list[Ratio]]] = {
        "host": lambda: bench_host(host, config.rounds),
        "window": lambda: bench_window(host, config.rounds),
        "population": lambda: bench_population(load_host("pocket"), config.rounds),
        "update": lambda: bench_update(host, config.length, config.rounds),
        "recorded": lambda: bench_recorded(host, config.length, config.rounds),
        "search": lambda: bench_search(host, config.length, config.budget, config.interval, config.rounds),
        "evaluation": lambda: bench_evaluation(host, config.length, config.rounds),
        "state": lambda: bench_state(host),
        "strategy": lambda: bench_strategy(config.rounds),
        "peak": lambda: bench_peak(config.host),
    }
    found = [row for part in config.parts for row in parts[part]()]
    publish(found, f"{jax.devices()[0].device_kind}, medians of pairs", config.folder / "bench.json", console)
    return found


def publish(rows: list[Ratio], title: str, path: Path, console: Console) -> None:
    """Print a table and write the same as JSON."""
    table = Table("what", "first", "second", "ratio", "aim", title=title)
    for row in rows:
        numbers = (f"{row.first:.3g} {row.unit}", f"{row.second:.3g} {row.unit}", f"{row.ratio:.3f}")
        table.add_row(row.what, *numbers, row.aim)
    console.print(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
