"""Scores to kept slots, and the gather that frees the others (`namm.selection`, `namm.memory`) in torch."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from namm.pytorch.state import PolicyState, SlotCache, TorchPolicy, take
from namm.selection import SelectionConfig


def select(
    scores: Float[Tensor, "batch head slot"],
    positions: Int[Tensor, "batch head slot"],
    valid: Bool[Tensor, "batch head slot"],
    config: SelectionConfig,
    budget: Int[Tensor, "batch #head"],
) -> Bool[Tensor, "batch head slot"]:
    """The slots that stay, at most `budget` per head; rules and ties as in `namm.selection.select`."""
    limits = torch.finfo(torch.float32)
    finite = torch.nan_to_num(scores.float(), nan=limits.min).clamp(limits.min, limits.max)
    newer = valid.flip(-1).cumsum(-1).flip(-1)  # valid slots from here to the newest, inclusive
    always = (newer <= config.recent) | (positions < config.sinks)
    ranked = torch.where(valid, torch.where(always, torch.inf, finite), -torch.inf)
    threshold = -torch.inf if config.threshold is None else config.threshold
    held = valid.sum(-1)
    wanted = (valid & (ranked >= threshold)).sum(-1)
    if config.mode == "faithful":
        wanted = torch.minimum(wanted.amax(-1, keepdim=True), held)
    count = torch.minimum(wanted, budget)
    order = torch.sort(ranked, dim=-1, descending=True, stable=True).indices
    chosen = torch.arange(ranked.shape[-1], device=ranked.device) < count[..., None]
    return torch.zeros_like(valid).scatter(-1, order, chosen)


def update(
    policy: TorchPolicy,
    state: PolicyState,
    cache: SlotCache,
    selection: SelectionConfig,
    budget: Int[Tensor, "batch #head"],
    due: Bool[Tensor, " batch"],
) -> tuple[PolicyState, SlotCache]:
    """Score, select and free, in the rows that are `due`; the others keep what they hold."""
    scores, new = policy.score(state, cache)
    keep = select(scores, cache.positions, cache.valid, selection, budget)
    if not bool(due.all()):
        keep = torch.where(due[:, None, None], keep, cache.valid)
        new = PolicyState(*(_choose(due, *pair) for pair in zip(new, state, strict=True)))
    return compact(new, cache, keep)


def _choose(due: Bool[Tensor, " batch"], new: dict[str, Tensor], old: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: torch.where(due.reshape(-1, *(1,) * (x.ndim - 1)), x, old[k]) for k, x in new.items()}


def compact(
    state: PolicyState, cache: SlotCache, keep: Bool[Tensor, "batch head slot"]
) -> tuple[PolicyState, SlotCache]:
    """Gather the kept slots; as many slots remain as the fullest head keeps, zeros first where a head has fewer.

    The newest tokens stand in the last slots, of all heads the same ones.
    The result owns its memory: dropped slots are freed.
    """
    counts = keep.sum(-1)
    size = int(counts.max())
    empty = size - counts[..., None]
    rank = torch.where(keep, empty + keep.cumsum(-1) - 1, size)  # the others share a place that is cut off
    place = torch.arange(keep.shape[2], device=keep.device).expand_as(rank)
    order = rank.new_zeros(*keep.shape[:2], size + 1).scatter_(-1, rank, place)[..., :size]
    filled = torch.arange(size, device=keep.device) >= empty
    whole = bool(filled.all())

    def gather(leaf: Tensor) -> Tensor:
        taken = take(leaf, order)
        return taken if whole else taken.masked_fill_(~filled[(...,) + (None,) * (leaf.ndim - 3)], 0)

    slots = {name: gather(leaf) for name, leaf in state.slots.items()}
    return state._replace(slots=slots), SlotCache(*map(gather, cache))
