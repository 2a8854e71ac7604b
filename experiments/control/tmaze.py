"""A T-maze: a cue on the way decides which turn at the far end is worth anything (after Bakker, NeurIPS 2001).

The cue is drawn somewhere in the first quarter of the corridor and shows for one step. Look-alikes (arrows of another
colour, in random directions) and landmarks fill most of the rest, so that neither the place of a sign nor its bare
presence tells which one counts. What is seen at the junction says nothing about the turn.
"""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from jaxtyping import Float

Observation = Float[np.ndarray, " state"]
FORWARD, LEFT, RIGHT = range(3)
# An observation is one-hot, or blank: the junction, the cue and its look-alike (left, right each), landmarks.
JUNCTION, CUE, ALIKE, LANDMARK, SIZE = 0, 1, 3, 5, 8
SIGNS = (0.3, 0.5)  # chance of a look-alike, and of a landmark, at a step without the cue


class TMaze(gym.Env[Observation, int | np.int64]):
    """One cue, one turn; the return is 1 for the turn that the cue shows and 0 for anything else.

    corridor: steps from the start to the junction. Actions: forward, left, right; to turn within the corridor leaves
    the player where it is. An episode ends with the turn, or when `limit` steps are over. ValueError for a corridor
    below 8.
    """

    def __init__(self, corridor: int):
        if corridor < 8:
            raise ValueError(f"corridor is {corridor}; expected 8 steps or more")
        self.corridor, self.limit = corridor, limit(corridor)
        self.observation_space = spaces.Box(0.0, 1.0, (SIZE,), np.float32)
        self.action_space = spaces.Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new maze. info: `cue`, the step at which it shows while the player walks on, and `turn`, the right one."""
        super().reset(seed=seed)
        self.place = self.steps = 0
        self.cue = int(self.np_random.integers(self.corridor // 4))
        self.turn = int(self.np_random.integers(LEFT, RIGHT + 1))
        return self._seen(), {"cue": self.cue, "turn": self.turn}

    def step(self, action: int | np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One move; see `gymnasium.Env.step`."""
        self.steps += 1
        turned = bool(self.place == self.corridor and action != FORWARD)
        self.place += int(action == FORWARD and self.place < self.corridor)
        return self._seen(), float(turned and action == self.turn), turned, not turned and self.steps >= self.limit, {}

    def _seen(self) -> Observation:
        """What the player sees where it stands."""
        seen = np.zeros(SIZE, np.float32)
        if self.place == self.corridor:
            seen[JUNCTION] = 1.0
        elif self.place == self.cue:
            seen[CUE + self.turn - LEFT] = 1.0
        elif (drawn := self.np_random.random()) < SIGNS[0]:
            seen[self.np_random.integers(ALIKE, LANDMARK)] = 1.0
        elif drawn < sum(SIGNS):
            seen[self.np_random.integers(LANDMARK, SIZE)] = 1.0
        return seen


def limit(corridor: int) -> int:
    """Steps after which an episode is cut off: a few more than the shortest way takes."""
    return corridor + 1 + corridor // 20


def walker(rng: np.random.Generator) -> Callable[[Observation], int]:
    """Scripted play for one episode: half of them good, half bad.

    Good play walks on and takes the turn of the cue. Bad play walks into a wall once in 500 steps, and turns at random.
    """
    good, seen = bool(rng.random() < 0.5), FORWARD

    def act(observation: Observation) -> int:
        nonlocal seen
        if observation[CUE : CUE + 2].any():
            seen = LEFT + int(observation[CUE + 1])
        if observation[JUNCTION]:
            return seen if good else int(rng.integers(LEFT, RIGHT + 1))
        return FORWARD if good or rng.random() > 0.002 else int(rng.integers(LEFT, RIGHT + 1))

    return act
