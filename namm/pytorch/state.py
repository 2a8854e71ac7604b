"""What the torch port carries: the slots of one layer for a batch of sequences, a policy's state, one observation.

The same meaning as `namm.cache` and `namm.contract`, with batch as the leading axis of every array. Unlike in JAX the
number of slots is not static: it grows with every chunk and shrinks at an update.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


class SlotCache(NamedTuple):
    """Keys (after RoPE), values, positions and occupancy; valid slots of a head stand in ascending position order."""

    keys: Float[Tensor, "batch head slot dim"]
    values: Float[Tensor, "batch head slot dim"]
    positions: Int[Tensor, "batch head slot"]
    valid: Bool[Tensor, "batch head slot"]


class PolicyState(NamedTuple):
    """`slots`: arrays [batch, head, slot, ...] that follow the cache; `running`: arrays [batch, ...] of the layer."""

    slots: dict[str, Tensor]
    running: dict[str, Tensor]


class Observation(NamedTuple):
    """What one layer saw in a chunk. Row i's tokens stand in columns [0, counts[i]); the rest is meaningless.

    attention: softmax weights, mean over the query heads of a KV head (no slots where the policy needs none).
    queries: before RoPE (empty where the policy needs none). counts, seen: per row, plain integers.
    """

    attention: Float[Tensor, "batch head query slot"]
    queries: Float[Tensor, "batch query_head query dim"]
    counts: tuple[int, ...]
    seen: tuple[int, ...]


class CacheShape(NamedTuple):
    """`group` query heads share each of `heads` KV heads."""

    batch: int
    heads: int
    group: int
    dim: int


@runtime_checkable
class TorchPolicy(Protocol):
    """A policy of `namm` in torch: the same state names and the same scores."""

    @property
    def policy(self) -> Any:
        """The policy of `namm` that this one ports."""
        ...

    @property
    def depth(self) -> int | None:
        """How many of a chunk's last queries matter; None: all of them."""
        ...

    def init(self, shape: CacheShape, device: torch.device, seed: int = 0) -> PolicyState:
        """A state without slots; `seed` tells layers apart where a policy draws numbers."""
        ...

    def observe(self, state: PolicyState, observation: Observation) -> PolicyState: ...

    def score(self, state: PolicyState, cache: SlotCache) -> tuple[Float[Tensor, "batch head slot"], PolicyState]: ...


def no_slots(shape: CacheShape, device: torch.device, *rest: int) -> Tensor:
    return torch.zeros((shape.batch, shape.heads, 0, *rest), device=device)


def newest(cache: SlotCache) -> Int[Tensor, "batch head 1"]:
    """Position of the newest token each head holds, -1 if it holds none."""
    return torch.where(cache.valid, cache.positions, -1).amax(-1, keepdim=True)


def real_rows(counts: tuple[int, ...], length: int, device: torch.device) -> Bool[Tensor, "batch query"]:
    """Which columns of a chunk hold a row's tokens."""
    return torch.arange(length, device=device) < torch.tensor(counts, device=device)[:, None]


def slide(
    series: Float[Tensor, "batch head time slot"], starts: tuple[int, ...], length: int
) -> Float[Tensor, "batch head length slot"]:
    """`length` samples from each row's own start; samples past the end repeat the last one."""
    if len(set(starts)) == 1 and starts[0] + length <= series.shape[2]:
        return series[:, :, starts[0] : starts[0] + length]
    index = torch.tensor(starts, device=series.device)[:, None] + torch.arange(length, device=series.device)
    index = index.clamp(max=series.shape[2] - 1)[:, None, :, None]
    return series.gather(2, index.expand(*series.shape[:2], length, series.shape[3]))


def take(x: Shaped[Tensor, "batch head slot *rest"], index: Int[Tensor, "batch head place"]) -> Tensor:
    """The slots at `index`, whole rows at once: several times as fast as `gather`, which reads an index per number."""
    first = x.shape[2] * torch.arange(x.shape[0] * x.shape[1], device=x.device)
    rows = (index.flatten(0, 1) + first[:, None]).flatten()
    return x.flatten(0, 2).index_select(0, rows).reshape(*index.shape, *x.shape[3:])


def pack(x: Tensor, chosen: Bool[Tensor, "batch head slot"]) -> Tensor:
    """The chosen slots of [batch, head, slot, ...] moved to the front in order, zeros behind them."""
    order = torch.argsort((~chosen).to(torch.int8), dim=2, stable=True)
    expand = (...,) + (None,) * (x.ndim - 3)
    masked = torch.where(chosen[expand], x, torch.zeros((), dtype=x.dtype, device=x.device))
    return masked.gather(2, order[expand].expand_as(x))


def unpack(packed: Float[Tensor, "batch head place"], chosen: Bool[Tensor, "batch head slot"]) -> Tensor:
    """Undo `pack` for the chosen slots; the others hold anything."""
    rank = torch.cumsum(chosen, dim=2) - 1
    return packed.gather(2, rank.clamp(min=0))
