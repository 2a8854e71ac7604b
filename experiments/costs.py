"""Operations and bytes of a rollout, an update and a decoding step, counted from a host's sizes.

A multiply-add is two operations; norms, softmax and the memory's own scorer are left out, so shares of a limit are low
by what those take. Bytes are what must be read or written once.
"""

from typing import NamedTuple

from hosts.spec import HostSpec


class Cost(NamedTuple):
    """Floating-point operations and bytes."""

    flops: float
    bytes: float

    def seconds(self, flops: float, bandwidth: float) -> float:
        """The least time on a device of so many operations and bytes a second."""
        return max(self.flops / flops, self.bytes / bandwidth)


class Entry(NamedTuple):
    """Bytes of a number: in the layers' matrices, and in the embedding and caches ("mixed" has smaller matrices)."""

    matrix: int
    other: int


def layer_weights(spec: HostSpec) -> int:
    """Entries of one layer's matrices."""
    attention = 2 * spec.hidden * spec.head_dim * (spec.query_heads + spec.kv_heads)
    return attention + 3 * spec.hidden * spec.intermediate


def slot_size(spec: HostSpec, itemsize: int) -> int:
    """Bytes of a token's keys and values in all layers."""
    return 2 * spec.layers * spec.kv_heads * spec.head_dim * itemsize


def forward_cost(spec: HostSpec, rows: int, tokens: int, slots: int, entry: Entry, head: bool = False) -> Cost:
    """One pass of `rows` sequences with `tokens` new tokens each over `slots` slots; `head` for the logits too."""
    matrices, embedding = spec.layers * layer_weights(spec), head * spec.vocabulary * spec.hidden
    attention = 4 * spec.layers * spec.query_heads * spec.head_dim * slots
    flops = rows * tokens * (2 * (matrices + embedding) + attention)
    held = matrices * entry.matrix + embedding * entry.other
    return Cost(flops, held + rows * slots * slot_size(spec, entry.other))


def rollout_cost(
    spec: HostSpec, candidates: int, prompts: int, length: int, interval: int, chunk: int, kept: int, entry: Entry
) -> Cost:
    """Reading prompts of `length` tokens: what comes before anything is dropped once a prompt, the rest for every
    candidate (see `hosts.rollout.prefill`)."""
    first = min(interval, length)
    alike = min(interval * (1 + kept // interval), length)
    parts = [(prompts, first, first), (prompts, alike - first, kept + interval)]
    parts += [(candidates * prompts, length - alike, kept + interval)]
    flops = moved = 0.0
    for rows, tokens, slots in parts:
        one = forward_cost(spec, rows, chunk, slots, entry)
        flops += one.flops * tokens / chunk
        moved += one.bytes * tokens / chunk
    return Cost(flops, moved)


def update_cost(spec: HostSpec, rows: int, slots: int, kept: int, itemsize: int, state: int) -> Cost:
    """One memory update of all layers: every slot with its `state` bytes is read, those kept are read and written."""
    slot = slot_size(spec, itemsize) + spec.layers * spec.kv_heads * state
    return Cost(0.0, rows * (slots + 2 * kept) * slot)
