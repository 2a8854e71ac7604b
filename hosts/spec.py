"""What a host is: sizes, RoPE rule, special tokens. Plain data that validates itself, hashable (static under jit)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

import numpy as np
from jax.typing import DTypeLike

RopeKind = Literal["default", "linear", "dynamic", "ntk", "llama3", "yarn"]
NEEDS_ORIGINAL = ("dynamic", "llama3", "yarn")


@dataclass(frozen=True)
class RopeSpec:
    """Rotary position rule of a host.

    `theta` is the base; `factor` the stretch of the context. Per kind: `ntk` (fixed, length independent) rescales the
    base by (alpha*factor - (alpha-1))^(d/(d-2)); `dynamic` does so by the current length over `original_max_positions`;
    `llama3` uses `low_freq_factor`, `high_freq_factor`, `original_max_positions`; `yarn` uses `beta_fast`, `beta_slow`,
    `original_max_positions`, `truncate` and, for the scale of cos and sin, `attention_factor` or the two `mscale`s.
    """

    kind: RopeKind
    theta: float
    factor: float = 1.0
    alpha: float = 1.0
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_positions: int | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        if self.kind not in get_args(RopeKind):
            raise ValueError(f"RoPE kind: got {self.kind!r}, expected one of {', '.join(get_args(RopeKind))}")
        if not self.theta > 1:
            raise ValueError(f"RoPE theta: got {self.theta}, expected a number above 1")
        if not self.factor >= 1:
            raise ValueError(f"RoPE factor: got {self.factor}, expected a number of at least 1")
        if not self.alpha * self.factor - (self.alpha - 1) >= 1:
            raise ValueError(f"RoPE alpha: got {self.alpha}, expected alpha*factor - (alpha-1) of at least 1")
        if self.kind == "llama3":
            low, high = self.low_freq_factor, self.high_freq_factor
            if low is None or high is None or not 0 < low < high:
                raise ValueError(
                    f"llama3 RoPE: got low_freq_factor {low} and high_freq_factor {high}, expected 0 < low < high"
                )
        if self.kind == "yarn" and not self.beta_fast >= self.beta_slow > 0:
            raise ValueError(
                f"yarn RoPE: got beta_fast {self.beta_fast}, beta_slow {self.beta_slow}, expected fast >= slow > 0"
            )


@dataclass(frozen=True)
class HostSpec:
    """Sizes and rules of a frozen Llama; `max_positions` is the longest context (tokens) its RoPE rule is meant for."""

    name: str
    layers: int
    query_heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    intermediate: int
    vocabulary: int
    max_positions: int
    rope: RopeSpec
    norm_epsilon: float
    tied_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    bos_id: int | None
    eos_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and not (isinstance(value, int) and value > 0):
                raise ValueError(f"host {self.name}: {field.name}: got {value!r}, expected a positive integer")
        if self.query_heads % self.kv_heads:
            raise ValueError(
                f"host {self.name}: query_heads {self.query_heads} is not a multiple of kv_heads {self.kv_heads}"
            )
        smallest = 4 if self.rope.kind in ("ntk", "dynamic") else 2
        if self.head_dim % 2 or self.head_dim < smallest:
            raise ValueError(
                f"host {self.name}: head_dim: got {self.head_dim}, expected an even number of at least {smallest}"
            )
        if self.rope.kind in NEEDS_ORIGINAL and not self.rope.original_max_positions:
            raise ValueError(
                f"host {self.name}: RoPE kind {self.rope.kind} needs original_max_positions (before scaling)"
            )

    @property
    def group(self) -> int:
        """Query heads that share one KV head."""
        return self.query_heads // self.kv_heads

    def kv_bytes(self, dtype: DTypeLike) -> int:
        """Bytes that one token occupies in a full cache: keys and values of all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * np.dtype(dtype).itemsize

    @property
    def flops_per_token(self) -> int:
        """Operations of one token's matrix products, head included, attention over the cache excluded."""
        projections = self.hidden * self.head_dim * 2 * (self.query_heads + self.kv_heads)
        return 2 * (self.layers * (projections + 3 * self.hidden * self.intermediate) + self.hidden * self.vocabulary)

    def with_rope(self, rope: RopeSpec) -> HostSpec:
        """The same host under another RoPE rule, meant for `factor` times its original context."""
        original = rope.original_max_positions or self.rope.original_max_positions or self.max_positions
        if rope.kind == "default":
            return replace(self, rope=rope)
        rope = replace(rope, original_max_positions=original)
        return replace(self, rope=rope, max_positions=max(self.max_positions, round(original * rope.factor)))
