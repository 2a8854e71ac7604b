"""`namm bench inference`: a Hugging Face model with a memory against itself without one, timed in turn in one run."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from rich.console import Console
from torch import Tensor

from experiments.bench import Ratio, laps, paired, publish
from hosts import smollm2
from hosts.pytorch import Report, attach, memory_report
from hosts.pytorch.pretrained import load_model
from namm.artefact import Memory, load


@dataclass(frozen=True)
class InferenceConfig:
    """What to time, in float32 on random tokens; stock `transformers` is the other side of every ratio."""

    host: str = smollm2.NAME
    """`smollm2-135m`, or what `from_pretrained` takes: a folder or a hub id."""
    memories: tuple[str, ...] = ("sliding-window", "keydiff", "h2o", "smollm2")
    contexts: tuple[int, ...] = (1024, 2048, 4096, 8192)
    budget: int | float = 0.25
    """Tokens every head keeps, or a share of the tokens read."""
    interval: int | None = None
    """Tokens between updates; default: the memory's own."""
    tokens: int = 32
    """Decoded after the context."""
    rounds: int = 3
    threads: int = 2
    folder: Path = Path("runs/bench")

    def __post_init__(self) -> None:
        for name in ("tokens", "rounds", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if not self.memories or not self.contexts or min(self.contexts) < 1:
            raise ValueError(f"memories are {self.memories} and contexts {self.contexts}; expected some of each")

    def kept(self, length: int) -> int:
        """Tokens a head holds after an update at the end of a context."""
        return self.budget if isinstance(self.budget, int) else ceil(self.budget * length)


@dataclass
class Runner:
    """One model, stock or with a memory, reading one context and decoding after it."""

    model: Any
    tokens: Int[Tensor, "1 context"]
    config: InferenceConfig
    memory: Memory | None = None
    cache: Any = None
    report: Report | None = None
    last: Tensor = field(default_factory=lambda: torch.zeros(1, 1, dtype=torch.long))

    def attached(self) -> Any:
        if self.memory is None:
            return nullcontext()
        return attach(self.model, self.memory, self.config.budget, self.config.interval)

    @torch.no_grad()
    def prefill(self) -> None:
        self.cache = None
        with self.attached():
            self._step(self.tokens)
            if self.memory is not None:
                self.report = memory_report(self.model)

    @torch.no_grad()
    def decode(self) -> None:
        with self.attached():
            for _ in range(self.config.tokens):
                self._step(self.last)

    def _step(self, tokens: Tensor) -> None:
        out = self.model(tokens, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.cache, self.last = out.past_key_values, out.logits[:, -1:].argmax(-1)


def compare(model: Any, memories: dict[str, Memory], length: int, config: InferenceConfig) -> list[Ratio]:
    """Three rows a memory: the cache's peak, prefill, decoding."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, (1, length), generator=generator)
    stock = Runner(model, tokens, config)
    others = {name: Runner(model, tokens, config, memory) for name, memory in memories.items()}
    runners = [stock, *others.values()]
    read = laps([runner.prefill for runner in runners], config.rounds)
    decoded = laps([runner.decode for runner in runners], config.rounds) / config.tokens
    rows = []
    for column, (name, runner) in enumerate(others.items(), start=1):
        rows.append(_peak(f"{length} tokens, {name}", runner, config))
        what = f"{length} tokens, {name}: prefill with the memory / stock"
        rows.append(Ratio(what, "at most 1.15", *paired(read[:, column], read[:, 0])))
        what = f"{length} tokens, {name}: a decoded token, stock / with the memory"
        aim = "at least 1.5" if length >= 8192 else ""
        rows.append(Ratio(what, aim, *paired(decoded[:, 0], decoded[:, column])))
    return rows


def _peak(what: str, runner: Runner, config: InferenceConfig) -> Ratio:
    """The most that keys and values took while the context was read against the budget's share of the full cache."""
    assert runner.report is not None
    full = runner.report.full_bytes / runner.report.seen[0]  # a token
    kept = config.kept(runner.tokens.shape[1])
    peak, share = runner.report.peak_bytes / 2**20, full * kept / 2**20
    what = f"{what}: peak bytes of the cache while reading / the budget's"
    return Ratio(what, "at most 1.05", peak, share, peak / share, "MiB")


def bench_inference(config: InferenceConfig, console: Console) -> list[Ratio]:
    """Time every context, print a table, write inference.json."""
    memories = {name: load(name) for name in config.memories}
    model, threads = load_model(config.host), torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        found = [row for length in config.contexts for row in compare(model, memories, length, config)]
    finally:
        torch.set_num_threads(threads)
    title = f"{config.host}, budget {config.budget}, {config.threads} threads, medians of {config.rounds} rounds"
    publish(found, title, config.folder / "inference.json", console)
    return found
