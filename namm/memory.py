"""The only thing a host calls at an update: scores, selection and the gather, for one layer of one sequence."""

from typing import NamedTuple

import jax
from jaxtyping import Array, Int

from namm.cache import SlotCache, take_slots
from namm.contract import Parameters, Policy, PolicyState
from namm.selection import SelectionConfig, select


class Layout(NamedTuple):
    """Slots of a cache: `kept` for tokens that survived the last update, `window` for those that came since."""

    kept: int
    window: int

    @property
    def slots(self) -> int:
        return self.kept + self.window


def update(
    policy: Policy,
    params: Parameters,
    state: PolicyState,
    cache: SlotCache,
    selection: SelectionConfig,
    budget: Int[Array, ""] | Int[Array, " #head"] | int,
    layout: Layout,
) -> tuple[PolicyState, SlotCache]:
    """Score every slot, keep the chosen ones in slots [0, kept) in position order and empty the window.

    `budget` may be traced (tokens per head, one for all or each its own); `layout` is static. The input may have any
    number of slots.
    """
    scores, state = policy.score(params, state, cache)
    indices, keep = select(scores, cache.positions, cache.valid, selection, budget, layout.kept)

    def gather(leaf: Array) -> Array:
        return take_slots(leaf, indices, keep, layout.slots)

    return state._replace(slots=jax.tree.map(gather, state.slots)), SlotCache(*map(gather, cache))
