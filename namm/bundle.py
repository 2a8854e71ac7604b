"""Several policies watching one full-cache pass, so that all of them can be judged on the same record."""

from dataclasses import dataclass

from jaxtyping import Array, Float

from namm.cache import CacheShape, SlotCache
from namm.contract import Observation, Parameters, Policy, PolicyState


@dataclass(frozen=True)
class Bundle:
    """Carries every member's state side by side. It scores nothing itself: `member_state` hands a state out."""

    members: tuple[Policy, ...]
    name: str = "bundle"
    layered: bool = False
    position_rule: str = "original"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(member.needs for member in self.members))

    def init(self, shape: CacheShape, key: Array) -> PolicyState:
        states = [member.init(shape, key) for member in self.members]
        slots = {f"{i}/{k}": v for i, state in enumerate(states) for k, v in state.slots.items()}
        running = {f"{i}/{k}": v for i, state in enumerate(states) for k, v in state.running.items()}
        return PolicyState(slots, running)

    def observe(self, state: PolicyState, observation: Observation) -> PolicyState:
        for i, member in enumerate(self.members):
            new = member.observe(self.member_state(state, i), observation)
            state = self._with_member(state, i, new)
        return state

    def score(
        self, params: Parameters, state: PolicyState, cache: SlotCache
    ) -> tuple[Float[Array, "head slot"], PolicyState]:
        raise ValueError("a bundle only watches; take a member's state with member_state and score with that member")

    def member_state(self, state: PolicyState, index: int) -> PolicyState:
        """The state of one member, as if it had watched alone. Works on states with leading axes too."""
        prefix = f"{index}/"
        parts = ({k.removeprefix(prefix): v for k, v in part.items() if k.startswith(prefix)} for part in state)
        return PolicyState(*parts)

    def _with_member(self, state: PolicyState, index: int, new: PolicyState) -> PolicyState:
        return PolicyState(
            *({**old, **{f"{index}/{k}": v for k, v in part.items()}} for old, part in zip(state, new, strict=True))
        )
