"""`namm stream`: one long text through a host under several memories, in constant memory."""

import csv
import json
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from importlib.resources import files
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int
from rich.console import Console
from rich.progress import Progress

from experiments.figures import draw_stream
from experiments.report import stream_table
from hosts.endless import Reader, check_fit
from hosts.weights import Host, load_host
from namm.artefact import Memory, load
from namm.model import NammPolicy

LINE = 1000  # tokens


@dataclass(frozen=True)
class StreamConfig:
    """Perplexity, resident memory and speed for every 1,000 tokens of a long text, one memory after the other.

    memory: folders of trained memories, names of shipped ones, or policies, settings behind a colon
    ("streaming-llm:sinks=0"). Those at slot positions read on without end; those at original positions stop where the
    host's positions do. budget: tokens kept per head. interval: tokens between updates of a policy; a trained memory
    brings its own. text: any text file, read again from its beginning as needed; by default the bundled one.
    """

    host: str = "smollm2-135m"
    memory: tuple[str, ...] = ("streaming-llm", "streaming-llm:sinks=0")
    budget: int = 1024
    tokens: int = 100_000
    interval: int = 64
    text: Path | None = None
    folder: Path = Path("runs/stream")


@dataclass(frozen=True)
class Line:
    """The last 1,000 tokens of a stream (or the rest at its end), up to token number `tokens`.

    perplexity: exp of the mean of -log p over these tokens, each given what the memory kept of all before it; the very
    first token has no p and is left out. resident_bytes: of this process, the most that was seen after any chunk.
    """

    memory: str
    tokens: int
    perplexity: float
    resident_bytes: int
    cache_bytes: int
    tokens_per_second: float


def stream(config: StreamConfig, console: Console) -> list[Line]:
    """Run, print the table, write stream.csv (line by line, as they come), stream.json and stream.png."""
    if config.tokens < 2:
        raise ValueError(f"tokens is {config.tokens}; expected 2 or more")
    memories = [named_memory(name, config.interval) for name in dict.fromkeys(config.memory)]
    host = load_host(config.host)
    for memory in memories:  # before hours of reading
        check_fit(host.spec, memory, config.budget)
    text = text_ids(host, config.text)
    config.folder.mkdir(parents=True, exist_ok=True)
    found: list[Line] = []
    with (config.folder / "stream.csv").open("w", newline="") as file, Progress(console=console) as bar:
        writer = csv.DictWriter(file, [field.name for field in fields(Line)])
        writer.writeheader()
        for memory in memories:
            reader = Reader(host, memory, config.budget)
            task = bar.add_task(memory.name, total=config.tokens)
            for line in read_lines(reader, text, config.tokens):
                found.append(line)
                writer.writerow(asdict(line))
                file.flush()
                bar.update(task, completed=line.tokens)
            if reader.seen < config.tokens:
                console.print(
                    f"{memory.name} stops after {reader.seen} tokens: it keeps original positions, and "
                    f"{host.spec.name} has no more of them"
                )
    rows = [asdict(line) for line in found]
    (config.folder / "stream.json").write_text(json.dumps(rows, indent=2) + "\n")
    draw_stream(rows, config.folder / "stream.png", f"{host.spec.name}, {config.budget} tokens kept")
    console.print(stream_table(rows))
    return found


def named_memory(name: str, interval: int) -> Memory:
    """A memory by name or folder; `interval` is that of a training-free policy, a trained memory keeps its own."""
    memory = load(name)
    return memory if isinstance(memory.policy, NammPolicy) else replace(memory, interval=interval)


def text_ids(host: Host, path: Path | None) -> Int[np.ndarray, " token"]:
    """Token ids of a text file, by default of the bundled one. ValueError where it holds no text."""
    source = files("experiments.tasks") / "texts" / "haystack.txt" if path is None else path
    ids = np.array(host.tokenizer(source.read_text(encoding="utf-8"))["input_ids"], np.int32)
    if not len(ids):
        raise ValueError(f"{path} is empty; expected a text file")
    return ids


def read_lines(reader: Reader, text: Int[np.ndarray, " token"], tokens: int) -> Iterator[Line]:
    """Read `tokens` tokens of the text, again and again from its beginning, or as many as there is room for."""
    total = min(tokens, reader.room)
    surprisals, clock, done, resident = np.zeros(0), np.zeros(0), 0, 0
    while reader.seen < total:
        places = reader.seen + np.arange(min(reader.step, total - reader.seen))
        begin = time.perf_counter()
        new = reader.read(text[places % len(text)].tolist(), scored=True)
        jax.block_until_ready(reader.stream)  # nothing of this chunk is still to be timed, or in memory
        clock = np.append(clock, np.full(len(new), (time.perf_counter() - begin) / len(new)))
        surprisals = np.append(surprisals, new)
        resident = max(resident, resident_bytes())
        while len(surprisals) >= LINE or (reader.seen == total and len(surprisals)):
            part, surprisals = surprisals[:LINE], surprisals[LINE:]
            seconds, clock = float(np.sum(clock[:LINE])), clock[LINE:]
            perplexity = float(np.exp(np.mean(part if done else part[1:])))
            done += len(part)
            memory, speed = reader.memory.name, len(part) / seconds
            yield Line(memory, done, perplexity, resident, reader.cache_bytes, speed)
            resident = resident_bytes()


def resident_bytes() -> int:
    """Bytes of this process that are in memory now; its peak where the system does not tell."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
