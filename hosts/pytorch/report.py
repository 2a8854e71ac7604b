"""What a memory holds and saves."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from hosts.pytorch.cache import NammCache


@dataclass(frozen=True)
class Report:
    """Of one cache, keys and values only.

    kept: tokens per layer, each [batch, head]. seen: tokens read per row. bytes: now; peak_bytes: the most before
    any update and after any forward (while a layer takes in a chunk or is compacted, its old and new slots stand side
    by side for a moment); full_bytes: of a stock cache after the same call.
    """

    kept: list[Int[Tensor, "batch head"]]
    seen: list[int]
    bytes: int
    peak_bytes: int
    full_bytes: int

    @property
    def saved_bytes(self) -> int:
        return self.full_bytes - self.bytes

    def __str__(self) -> str:
        lines = [f"layer {i:3d}: {_span(kept)} tokens per head" for i, kept in enumerate(self.kept)]
        share = self.bytes / self.full_bytes if self.full_bytes else 1.0
        total = f"{self.bytes:,} bytes, {share:.1%} of the full cache; at most {self.peak_bytes:,} at any time"
        return "\n".join([*lines, total])


def _span(kept: Tensor) -> str:
    low, high = int(kept.min()), int(kept.max())
    return str(low) if low == high else f"{low} to {high}"


def report(cache: NammCache) -> Report:
    """Count what a cache holds."""
    layers = [layer for layer in cache.memory_layers if layer.is_initialized]
    kept = [layer.held().cpu() for layer in layers]
    full = 0
    for layer, held in zip(layers, kept, strict=True):
        dim = layer.parts[0].keys.shape[3]
        full += 2 * held.numel() * dim * cache.columns * torch.finfo(layer.dtype).bits // 8
    return Report(kept, list(cache.seen), cache.bytes(), cache.peak_bytes, full)
