"""The control tasks as `namm transfer` plays them."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium.spaces import flatdim
from jaxtyping import Float

from experiments.control.d4rl import load_published
from experiments.control.players import ContextOne, play
from experiments.control.tasks import D4RL, find_task
from experiments.played import Played
from hosts.pytorch.decision_transformer import Episodes, load_player


class ControlTransfer:
    """Episodes of a Decision Transformer; a step is three tokens: return to go, state, action.

    name: of a task, or TASK@HOST for a host of one's own: a name or a folder.
    """

    controls, unit, step, seeds, prompts = ("context-1",), "episodes", "timestep", None, ()

    def __init__(self, name: str):
        task, _, host = name.partition("@")
        self.task = find_task(task)
        self.name, self.host, self.tokens = name, host or self.task.host, 3 * self.task.context

    def load(self) -> Any:
        if self.task.name in D4RL:
            return load_published(self.host, self.task.data)
        return load_player(self.host)

    @cached_property
    def sizes(self) -> tuple[int, int]:
        """Numbers of a state and of an action."""
        env = self.task.make()
        return flatdim(env.observation_space), flatdim(env.action_space)

    def model(self, host: Any) -> Any:
        """ValueError where the host is one of other states or actions, or of shorter episodes."""
        asked, has = (*self.sizes, self.task.context), host.config
        if (has.state_dim, has.act_dim) != asked[:2] or has.max_ep_len < asked[2]:
            numbers = "{} numbers a state, {} an action and {} steps"
            given = numbers.format(has.state_dim, has.act_dim, has.max_ep_len)
            raise ValueError(f"{self.name}: {self.host} has {given}; expected {numbers.format(*asked)}")
        return host

    def play(self, host: Any, seeds: Sequence[int], control: str | None) -> list[Played]:
        return play(Episodes(host) if control is None else ContextOne(host), self.task, seeds)

    def score(self, returned: float) -> float:
        return self.task.score(returned)

    def by_step(self, kept: Sequence[float]) -> Float[np.ndarray, " step"]:
        """Mean over return and state: the last action is not read."""
        return np.append(kept, np.nan).reshape(-1, 3)[:, :2].mean(1)

    def images(self, host: Any, seed: int) -> list[bytes]:
        return []

    def words(self, host: Any, seed: int) -> tuple[str, ...]:
        return ()
