"""Scores to kept slots: a threshold (faithful or strict), a budget, protected tokens; the output size is static."""

import typing
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

BudgetsName = Literal["equal", "layer", "head"]
WIDEST = 4  # budgets: the most that a head with a budget of its own may hold


@dataclass(frozen=True)
class SelectionConfig:
    """Which slots stay.

    mode: "faithful" keeps in every head of a layer the N best slots, N = the largest number of slots at or above the
        threshold among the heads (the original's rule: heads with fewer are filled up and the fillers are attended);
        "strict" keeps per head what is at or above the threshold and nothing else.
    threshold: None keeps by budget alone.
    recent: newest tokens that are never dropped (the original protects one). sinks: oldest positions never dropped.
    budgets: "equal" gives every head the budget. "layer" and "head" give all heads together as much, shared out among
        layers or heads as the memory's parameters say (see `share_out`), at most WIDEST budgets to one.
    """

    mode: Literal["faithful", "strict"] = "faithful"
    threshold: float | None = 0.0
    recent: int = 1
    sinks: int = 0
    budgets: BudgetsName = "equal"

    def __post_init__(self) -> None:
        if self.mode not in ("faithful", "strict"):
            raise ValueError(f"selection.mode is {self.mode!r}; expected 'faithful' or 'strict'")
        if self.recent < 1:
            raise ValueError(f"selection.recent is {self.recent}; at least the newest token (1) is always kept")
        if self.sinks < 0:
            raise ValueError(f"selection.sinks is {self.sinks}; expected 0 or more")
        if self.budgets not in (known := typing.get_args(BudgetsName)):
            raise ValueError(f"selection.budgets is {self.budgets!r}; expected one of {', '.join(known)}")
        if self.budgets != "equal" and self.threshold is not None:
            raise ValueError(
                f"selection.budgets is {self.budgets!r}; expected 'equal' beside a threshold ({self.threshold}), which "
                "says by itself how much a head keeps"
            )

    @property
    def protected(self) -> int:
        """Tokens that no budget may drop."""
        return self.recent + self.sinks

    @property
    def widest(self) -> int:
        """Budgets that a single head may hold."""
        return 1 if self.budgets == "equal" else WIDEST


class Selection(NamedTuple):
    """Kept slots per head, ascending; entries with keep=False are unused."""

    indices: Int[Array, "head kept"]
    keep: Bool[Array, "head kept"]


def share_out(
    shares: Float[Array, "layer *head"], budget: Int[Array, ""], most: Int[Array, ""], protected: int
) -> Int[Array, "layer head"]:
    """Budgets of layers (one head) or of heads, as `parts` says, rounded down."""
    return jnp.floor(parts(shares, budget, most, protected) + 1e-3).astype(jnp.int32)  # float32: a little lower


def parts(
    shares: Float[Array, "layer *head"], budget: Int[Array, ""], most: Int[Array, ""], protected: int
) -> Float[Array, "layer head"]:
    """`budget` on average and none above `most`, differentiable in the shares.

    Each gets the `protected` tokens, and of the rest in proportion to exp(shares); what one that is full cannot take
    goes to the others. Equal shares get `budget` each.
    """
    layers, shares = len(shares), shares.reshape(-1)
    mean, room = (jnp.maximum(x - protected, 0).astype(jnp.float32) for x in (budget, most))
    weights = jnp.exp(shares - jnp.max(shares))
    ranked = -jnp.sort(-weights)
    left = jnp.cumsum(ranked[::-1])[::-1]  # weights from here on
    full = jnp.arange(len(shares))  # if the parts before this one are full, what is left of a unit of weight
    unit = (len(shares) * mean - full * room) / left
    fits = unit * ranked <= room
    tokens = jnp.minimum(unit[jnp.argmax(fits)] * weights, room)
    tokens = jnp.where(jnp.any(fits), tokens, room)
    return protected + tokens.reshape(layers, -1)


def protect(
    scores: Float[Array, "head slot"],
    positions: Int[Array, "head slot"],
    valid: Bool[Array, "head slot"],
    config: SelectionConfig,
) -> Float[Array, "head slot"]:
    """Protected tokens score +inf, empty slots -inf."""
    newer = jnp.cumsum(valid[:, ::-1], axis=1)[:, ::-1]  # valid slots from here to the newest, inclusive
    kept_always = (newer <= config.recent) | (positions < config.sinks)
    return jnp.where(valid, jnp.where(kept_always, jnp.inf, scores), -jnp.inf)


def select(
    scores: Float[Array, "head slot"],
    positions: Int[Array, "head slot"],
    valid: Bool[Array, "head slot"],
    config: SelectionConfig,
    budget: Int[Array, ""] | Int[Array, " #head"] | int,
    kept: int,
) -> Selection:
    """Choose at most min(budget, kept) slots per head; `kept` is the static size of the result.

    A NaN score counts as the lowest finite one, an infinite one as the nearest finite one (so below protected slots).
    Equal scores keep the older slot first.
    """
    finite = jnp.where(jnp.isnan(scores), jnp.finfo(jnp.float32).min, scores.astype(jnp.float32))
    finite = jnp.clip(finite, jnp.finfo(jnp.float32).min, jnp.finfo(jnp.float32).max) + 0.0  # -0.0 ties with 0.0
    ranked = protect(finite, positions, valid, config)
    threshold = -jnp.inf if config.threshold is None else config.threshold
    wanted = jnp.sum(valid & (ranked >= threshold), axis=1)
    if config.mode == "faithful":
        wanted = jnp.minimum(jnp.max(wanted), jnp.sum(valid, axis=1))
    count = jnp.minimum(wanted, jnp.minimum(budget, kept))
    size = min(kept, scores.shape[1])
    _, order = jax.lax.top_k(ranked, size)
    chosen = jnp.arange(size) < count[:, None]
    indices = jnp.sort(jnp.where(chosen, order, scores.shape[1]), axis=1)
    keep = indices < scores.shape[1]
    indices = jnp.where(keep, indices, 0)
    spare = kept - size
    return Selection(jnp.pad(indices, ((0, 0), (0, spare))), jnp.pad(keep, ((0, 0), (0, spare))))
