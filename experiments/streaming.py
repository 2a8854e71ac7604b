"""`namm stream`: one long text through a host under several memories, in constant memory."""

import csv
import json
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import Progress

from experiments.figures import draw_stream
from experiments.memories import named_memories
from experiments.records import CONTENTS, check_settings, digest, memory_contents, write_whole
from experiments.report import stream_table
from experiments.tasks.corpora import use_data_folder
from experiments.texts import Source, Text, encode_text, read_parts
from hosts.endless import Reader, check_fit
from hosts.weights import load_host
from namm.artefact import Memory

LINE = 1000  # tokens
SETTINGS, LINES, CURVES = "settings.json", "stream.json", "stream.png"


@dataclass(frozen=True)
class StreamConfig:
    """Perplexity, resident memory and speed for every 1,000 tokens of a long text, one memory after the other.

    The same command again resumes: memories that have read everything are kept, the interrupted one begins again.

    memory: folders of trained memories, names of shipped ones, or policies, settings behind a colon
    ("streaming-llm:sinks=0"). Those at slot positions read on without end; those at original positions stop where the
    host's positions do. budget: tokens kept per head. interval: tokens between updates of a policy; a trained memory
    brings its own. tokens: how many to read, None for the text once. text: any text file, read again from its
    beginning as needed, by default the bundled one; "pg19" for the books of PG-19's test split, one after the other.
    data_dir: folder with `pg19/test/*.txt`; default the one that NAMM_DATA names, else the hub. folder: where the lines
    are kept and found again; default a folder of its own in runs for every choice of settings.
    """

    host: str = "smollm2-135m"
    memory: tuple[str, ...] = ("streaming-llm", "streaming-llm:sinks=0")
    budget: int = 1024
    tokens: int | None = 100_000
    interval: int = 64
    text: Source = None
    data_dir: Path | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class Line:
    """The last 1,000 tokens of a stream (or the rest at its end), up to token number `tokens`.

    perplexity: exp of the mean of -log p over these tokens, each given what the memory kept of all before it; the very
    first token has no p and is left out. resident_bytes: of this process, the most that was seen after any chunk.
    word_perplexity: PG-19's official measure, on the line in which the text's first reading ends and on no other: exp
    of the sum of -log p over the whole text, read once, divided by its words.
    """

    memory: str
    tokens: int
    perplexity: float
    resident_bytes: int
    cache_bytes: int
    tokens_per_second: float
    word_perplexity: float | None


def stream(config: StreamConfig, console: Console) -> list[Line]:
    """Read what the folder does not hold yet, print the table, write stream.csv line by line, stream.json, stream.png.

    ValueError, naming the field, where the folder was begun with other settings.
    """
    if config.tokens is not None and config.tokens < 2:
        raise ValueError(f"tokens is {config.tokens}; expected 2 or more, or None for the text once")
    use_data_folder(config.data_dir)
    memories, parts = named_memories(config.memory, config.interval), read_parts(config.text)
    settings = _settings(config, memories, parts)
    folder = config.folder or Path("runs") / f"stream-{digest(json.dumps(settings).encode())}"
    check_settings(folder, settings, SETTINGS, (LINES, "stream.csv"))
    found = [Line(**row) for row in json.loads((folder / LINES).read_text())] if (folder / LINES).is_file() else []
    done = {line.memory for line in found}
    if left := [memory for memory in memories if memory.name not in done]:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / SETTINGS, json.dumps(settings, indent=2) + "\n")
        _read_all(config, left, parts, found, folder, console)
    else:
        console.print(f"{folder} holds this stream, finished")
    console.print(stream_table([asdict(line) for line in found]))
    console.print(f"Lines are in {folder}")
    return found


def _settings(config: StreamConfig, memories: Sequence[Memory], parts: Sequence[str]) -> dict[str, Any]:
    """What must be alike for a stream to go on: all fields, and the contents of text and memories."""
    settings = {k: v for k, v in asdict(config).items() if k not in ("folder", "data_dir")}
    settings["text"] = None if config.text is None else str(config.text)
    settings[f"{CONTENTS}the text"] = digest(*(part.encode() for part in parts))
    return settings | memory_contents(memories)


def _read_all(
    config: StreamConfig, memories: Sequence[Memory], parts: Sequence[str], found: list[Line], folder: Path,
    console: Console,
) -> None:
    """Add the lines of every memory to those that were found, on disk as they come."""
    host = load_host(config.host)
    for memory in memories:  # before hours of reading
        check_fit(host.spec, memory, config.budget)
    text = encode_text(host.tokenizer, parts)
    total = len(text.ids) if config.tokens is None else config.tokens
    with (folder / "stream.csv").open("w", newline="") as file, Progress(console=console) as bar:
        writer = csv.DictWriter(file, [field.name for field in fields(Line)])
        writer.writeheader()
        writer.writerows(map(asdict, found))
        for memory in memories:
            reader = Reader(host, memory, config.budget)
            task = bar.add_task(memory.name, total=total)
            for line in read_lines(reader, text, total):
                found.append(line)
                writer.writerow(asdict(line))
                file.flush()
                bar.update(task, completed=line.tokens)
            if reader.seen < total:
                console.print(
                    f"{memory.name} stops after {reader.seen} tokens: it keeps original positions, and "
                    f"{host.spec.name} has no more of them"
                )
            rows = [asdict(line) for line in found]
            draw_stream(rows, folder / CURVES, f"{host.spec.name}, {config.budget} tokens kept")
            write_whole(folder / LINES, json.dumps(rows, indent=2) + "\n")  # last: now this memory counts as read


def read_lines(reader: Reader, text: Text, tokens: int) -> Iterator[Line]:
    """Read `tokens` tokens of the text, again and again from its beginning, or as many as there is room for."""
    total, size = min(tokens, reader.room), len(text.ids)
    surprisals, clock, done, resident, once = np.zeros(0), np.zeros(0), 0, 0, 0.0
    while reader.seen < total:
        places = reader.seen + np.arange(min(reader.step, total - reader.seen))
        begin = time.perf_counter()
        new = reader.read(text.ids[places % size].tolist(), scored=True)
        jax.block_until_ready(reader.stream)  # nothing of this chunk is still to be timed, or in memory
        clock = np.append(clock, np.full(len(new), (time.perf_counter() - begin) / len(new)))
        surprisals = np.append(surprisals, new)
        once += float(np.sum(new[places < size], dtype=float))
        resident = max(resident, resident_bytes())
        while len(surprisals) >= LINE or (reader.seen == total and len(surprisals)):
            part, surprisals = surprisals[:LINE], surprisals[LINE:]
            seconds, clock = float(np.sum(clock[:LINE])), clock[LINE:]
            perplexity = float(np.exp(np.mean(part if done else part[1:])))
            whole = float(np.exp(once / text.words)) if done < size <= done + len(part) else None
            done += len(part)
            memory, speed = reader.memory.name, len(part) / seconds
            yield Line(memory, done, perplexity, resident, reader.cache_bytes, speed, whole)
            resident = resident_bytes()


def resident_bytes() -> int:
    """Bytes of this process that are in memory now; its peak where the system does not tell."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
