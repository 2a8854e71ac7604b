"""`namm device`: an accelerator's numbers against the CPU's, its speed against its limits, and a search in pieces."""

import json
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from experiments.device_times import Sizes, Timing, random_memory, timings
from experiments.objective import FULL, KEEP_ALL
from experiments.recipes import RECIPES
from experiments.records import write_whole
from experiments.run_config import Precision, RunConfig
from experiments.training import train
from hosts.llama import logits
from hosts.rollout import Schedule, prefill
from hosts.stream import make_engine, start
from hosts.stream import read as read_chunk
from hosts.weights import Host, cast, load_host
from namm.artefact import Memory
from namm.policies import load_policy

Part = Literal["check", "time", "evolve"]
CHECKS, TIMES, COMPILED = "checks.json", "times.json", "compiled"


@dataclass(frozen=True)
class DeviceConfig:
    """What to do on JAX's default device; the same command again goes on where the last one ended.

    recipe: to search with, see `namm evolve`. parts: check = logits, scores and kept slots against the CPU's; time =
    rollout, update and decoding against the device's own measured limits; evolve = `minutes` of search a call, with the
    final table once it is finished. sizes: of the timings. Checks and timings that the folder holds are not made again;
    what an accelerator compiled is kept in it too, unless JAX was told another place.
    """

    recipe: str = "smollm2-ruler"
    parts: tuple[Part, ...] = get_args(Part)
    sizes: Sizes = field(default_factory=Sizes)
    dtype: Precision = "bfloat16"
    minutes: float = 8.0
    folder: Path = Path("runs/device")

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise ValueError(f"recipe is {self.recipe!r}; expected one of {', '.join(RECIPES)}")
        if not self.minutes > 0:
            raise ValueError(f"minutes is {self.minutes}; expected more than 0")

    @property
    def run(self) -> RunConfig:
        return replace(RECIPES[self.recipe], dtype=self.dtype, time_limit=60 * self.minutes)


class Check(NamedTuple):
    """A difference between the device and the CPU; `limit` is the most that passes, None where nothing is promised."""

    what: str
    value: float
    limit: float | None


def device(config: DeviceConfig, console: Console) -> None:
    """Do the parts; tables are printed, checks.json, times.json and the search's files written to the folder.

    ValueError where a check fails: a search on such a device would mean nothing.
    """
    config.folder.mkdir(parents=True, exist_ok=True)
    if jax.default_backend() != "cpu" and jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(config.folder / COMPILED))  # a minute a call on an H200
    kind = jax.devices()[0].device_kind
    console.print(f"{kind}, {jax.default_backend()}, {len(jax.devices())} devices")
    if "check" in config.parts and not (config.folder / CHECKS).is_file():
        checks = check(config)
        console.print(_table(kind, ("what", "value", "limit"), checks))
        failed = [row.what for row in checks if row.limit is not None and not row.value <= row.limit]
        if failed:
            raise ValueError(f"{kind} is not right: {', '.join(failed)}; see the table")
        _write(config.folder / CHECKS, kind, checks)
    if "time" in config.parts and not (config.folder / TIMES).is_file():
        limits, rows = timings(config.run, config.sizes)
        title = f"{kind}, {config.dtype}: {limits.flops / 1e12:.3g} TFLOP/s, {limits.bandwidth / 1e9:.3g} GB/s measured"
        console.print(_table(title, Timing._fields, rows))
        _write(config.folder / TIMES, kind, rows, **limits._asdict())
    if "evolve" in config.parts:
        train(config.run, config.folder / config.recipe, console, in_pieces=True)


def check(config: DeviceConfig) -> list[Check]:
    """The recipe's memory with random weights on random tokens, on the device and on the CPU.

    In float32 with exact products the kept slots must be the CPU's but for near ties, in the recipe's precision the
    differences are shown.
    """
    run = config.run
    length, rows = min(config.sizes.length, 512), 2
    host = load_host(run.host, rope=run.rope)
    memory = random_memory(run)
    tokens = np.random.default_rng(0).integers(0, host.spec.vocabulary, (rows, length)).astype(np.int32)
    look = partial(_look, host, memory, tokens)
    expected = look("float32", jax.devices("cpu")[0])
    near = look("float32", jax.devices()[0])
    low = look(config.dtype, jax.devices()[0])
    scale = float(np.abs(expected.logits).max())
    found = []
    for name, seen, limits in (("float32", near, (1e-3, 0.01)), (config.dtype, low, (None, None))):
        logit = float(np.abs(seen.logits - expected.logits).max()) / scale
        found.append(Check(f"{name}: largest difference of a logit / largest logit", logit, limits[0]))
        changed = _changed(seen.kept, expected.kept)
        found.append(Check(f"{name}: share of kept slots that differ", changed, limits[1]))
    return found


class Look(NamedTuple):
    """What a device makes of a prompt: the full cache's last logits, positions that a memory keeps."""

    logits: np.ndarray
    kept: np.ndarray


def _look(host: Host, memory: Memory, tokens: np.ndarray, dtype: str, device: Any) -> Look:
    params = jax.device_put(cast(host.params, dtype), device)
    rows, length = tokens.shape
    plain = make_engine(host.spec, load_policy(FULL), KEEP_ALL, length)
    engine = make_engine(host.spec, memory.policy, memory.selection, length)
    counts, kept = np.full(rows, length, np.int32), length // 4
    schedule = Schedule(memory.interval, min(128, memory.interval), kept)
    with jax.default_device(device), jax.default_matmul_precision("highest"):
        fresh = start(plain, params, rows, length, jax.random.key(0))
        whole = jax.jit(partial(read_chunk, plain))(params, fresh, tokens, counts, 0)[0]
        last = logits(params, host.spec, whole.hidden)
        budget = np.full(rows, kept, np.int32)
        read = jax.jit(partial(prefill, engine, schedule=schedule))
        small = read(params, memory.population, tokens, counts, budget, key=jax.random.key(0))
        held = jnp.where(small.cache.valid, small.cache.positions, -1)
    return Look(np.asarray(last, np.float32), np.sort(np.asarray(held), axis=-1))


def _changed(a: np.ndarray, b: np.ndarray) -> float:
    """Share of held positions that the other does not hold."""
    pairs = zip(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]), strict=True)
    missing = [len(np.setdiff1d(x[x >= 0], y)) for x, y in pairs]
    return sum(missing) / max(int((a >= 0).sum()), 1)


def _table(title: str, names: tuple[str, ...], rows: list[Any]) -> Table:
    table = Table(*names, title=title, box=SIMPLE)
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else "" if value is None else f"{value:.3g}" for value in row))
    return table


def _write(path: Path, kind: str, rows: list[Any], **more: float) -> None:
    content = {"device": kind, **more, "rows": [row._asdict() for row in rows]}
    write_whole(path, json.dumps(content, indent=2) + "\n")
