"""Episodes of a control task played by a Decision Transformer with a memory, a batch at a time."""

import time
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from experiments.control.datasets import actions_as_vectors
from experiments.control.tasks import ControlTask
from experiments.played import Played, Stayed, stayed, under_memory
from hosts.pytorch.decision_transformer import Episodes

KINDS = ("return", "state", "action")  # the tokens of a step, in order


@runtime_checkable
class Player(Protocol):
    """What acts in a batch of episodes: `Episodes`, or `ContextOne`."""

    cache: Any

    def act(self, states: Tensor, returns: Tensor, timesteps: Tensor, taken: Tensor | None = None) -> Tensor: ...
    def keep(self, rows: Tensor) -> None: ...


class ContextOne:
    """Plays every step as if it were the first: the model sees the return to go and the state of this step alone."""

    def __init__(self, model: Any):
        self.model, self.cache = model, None

    def act(self, states: Tensor, returns: Tensor, timesteps: Tensor, taken: Tensor | None = None) -> Tensor:
        return Episodes(self.model).act(states, returns, timesteps)

    def keep(self, rows: Tensor) -> None:
        """Nothing is carried."""


class Row:
    """One running episode."""

    def __init__(self, task: ControlTask, seed: int):
        self.env, self.seed, self.returned, self.steps, self.over = task.make(), seed, 0.0, 0, False
        self.state, info = self.env.reset(seed=seed)
        self.cue: int | None = info.get("cue")
        self.target = task.target

    def step(self, output: Float[np.ndarray, " action"]) -> Float[np.ndarray, " action"]:
        """Do what the model says; returns what was done, as the model reads it."""
        action = action_of(self.env.action_space, output)
        self.state, reward, ended, cut, _ = self.env.step(action)
        self.returned += float(reward)
        self.steps, self.over = self.steps + 1, ended or cut
        return actions_as_vectors(self.env.action_space, action)


def action_of(space: gym.Space[Any], output: Float[np.ndarray, " action"]) -> Any:
    """The model's output as an action: the likeliest choice, or a vector within its bounds."""
    if isinstance(space, spaces.Discrete):
        return np.int64(output.argmax())
    assert isinstance(space, spaces.Box)
    return np.clip(output, space.low, space.high)


def play(player: Player, task: ControlTask, seeds: Sequence[int]) -> list[Played]:
    """One episode for each environment seed, in step; finished ones leave the batch. In the order of the seeds.

    ValueError where a model plays without a memory: "keep-all" is the one that keeps the full context.
    """
    begin, rows, taken = time.perf_counter(), [Row(task, seed) for seed in seeds], None
    done: dict[int, Played] = {}
    while rows:
        states = torch.from_numpy(np.stack([row.state for row in rows]).astype(np.float32))
        wanted = torch.tensor([row.target - row.returned for row in rows])
        output = player.act(states, wanted, torch.tensor([row.steps for row in rows]), taken).numpy()
        taken = torch.from_numpy(np.stack([row.step(one) for row, one in zip(rows, output, strict=True)]))
        for place, row in enumerate(rows):
            if row.over:
                row.env.close()
                done[row.seed] = _played(player, row, place, (time.perf_counter() - begin) / len(seeds))
        left = [place for place, row in enumerate(rows) if not row.over]
        if len(left) < len(rows) and left:
            player.keep(torch.tensor(left))
            taken = taken[left]
        rows = [rows[place] for place in left]
    return [done[seed] for seed in seeds]


def _played(player: Player, row: Row, place: int, seconds: float) -> Played:
    """The record of the episode in one row of the batch."""
    tokens = 3 * row.steps - 1  # the last action is not read any more
    if player.cache is None:
        found = Stayed(np.zeros(tokens))
    else:
        found = stayed(under_memory(player.cache), place, tokens)
    return Played(
        seed=row.seed,
        returned=row.returned,
        steps=row.steps,
        cue=row.cue,
        cue_kept=None if row.cue is None else float(found.share[3 * row.cue + KINDS.index("state")]),
        seconds=seconds,
        **found.fields(),
    )
