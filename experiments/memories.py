"""Memories as a command line names them."""

from collections.abc import Sequence
from dataclasses import replace

from namm.artefact import Memory, load
from namm.model import NammPolicy
from namm.selection import SelectionConfig


def named_memory(name: str, interval: int, recent: int = 1, sinks: int = 0) -> Memory:
    """A memory by folder or name.

    interval, recent, sinks: update interval and protected tokens of a training-free policy; a trained memory keeps its
    own.
    """
    memory = load(name)
    if isinstance(memory.policy, NammPolicy):
        return memory
    return replace(memory, interval=interval, selection=SelectionConfig(threshold=None, recent=recent, sinks=sinks))


def named_memories(names: Sequence[str], interval: int, recent: int = 1, sinks: int = 0) -> list[Memory]:
    """Each memory once and under a name of its own; see `named_memory`."""
    memories: list[Memory] = []
    for name in dict.fromkeys(names):
        memory = named_memory(name, interval, recent, sinks)
        taken = {m.name for m in memories}
        memories.append(replace(memory, name=name) if memory.name in taken else memory)
    return memories
