"""The control tasks by name, fully and partially observed, and the environments that they are played in."""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import TransformObservation

from experiments.control.tmaze import limit


@dataclass(frozen=True)
class ControlTask:
    """What is played, by which Decision Transformer, and for what return.

    host: a folder of hosts/pretrained, or a hub id. target: the return that the model is asked for. context: steps of
    the longest context. visible: leading parts of the observation that are shown, None for all. reference: D4RL's mean
    returns of random and of expert play, where it has the task. data: the Minari dataset of its play, or D4RL's name
    of what the model of a hub id was trained on.
    """

    name: str
    host: str
    environment: EnvSpec
    target: float
    context: int
    data: str
    visible: int | None = None
    reference: tuple[float, float] | None = None

    def make(self) -> gym.Env[Any, Any]:
        """The environment, as the model sees it."""
        env = gym.make(self.environment, disable_env_checker=True)
        return env if self.visible is None else hide(env, self.visible)

    def score(self, returned: float) -> float:
        """D4RL's normalised score in percent, 100 (R - random) / (expert - random); without a reference, the return."""
        if self.reference is None:
            return returned
        random, expert = self.reference
        return 100.0 * (returned - random) / (expert - random)


def hide(env: gym.Env[Any, Any], visible: int) -> gym.Env[Any, Any]:
    """The environment with the leading parts of its observation alone."""
    whole = env.observation_space
    assert isinstance(whole, spaces.Box)
    shown = spaces.Box(whole.low[:visible], whole.high[:visible], dtype=np.float64)
    return TransformObservation(env, lambda observation: observation[:visible], shown)


def _tmaze(corridor: int) -> ControlTask:
    spec = EnvSpec(f"namm/TMaze{corridor}-v0", "experiments.control.tmaze:TMaze", kwargs={"corridor": corridor})
    return ControlTask(f"tmaze-{corridor}", "dt-tmaze", spec, 1.0, limit(corridor), f"namm/tmaze-{corridor}-v0")


# Mean returns of random and of expert play (D4RL, v2), and what arXiv 2106.01345 asks for.
_GYM = {
    "HalfCheetah": ("half_cheetah_v4:HalfCheetahEnv", (-280.178953, 12135.0), 6000.0),
    "Hopper": ("hopper_v4:HopperEnv", (-20.272305, 3234.3), 3600.0),
    "Walker2d": ("walker2d_v4:Walker2dEnv", (1.629008, 4592.3), 5000.0),
}


def _hopper(name: str, visible: int | None) -> ControlTask:
    """Hopper-v5 cut at 300 steps, all of it or its five positions and angles alone; D4RL's reference returns (v2)."""
    spec = EnvSpec("Hopper-v5", "gymnasium.envs.mujoco.hopper_v5:HopperEnv", max_episode_steps=300)
    return ControlTask(name, f"dt-{name}", spec, 900.0, 300, "namm/hopper/medium-v0", visible, _GYM["Hopper"][1])


def _d4rl(environment: str, play: str) -> ControlTask:
    """A whole episode of 1,000 steps in the MuJoCo environment that is as in D4RL's v2."""
    name = f"{environment.lower()}-{play}"
    entry, reference, target = _GYM[environment]
    spec = EnvSpec(f"{environment}-v4", f"gymnasium.envs.mujoco.{entry}", max_episode_steps=1000)
    host = f"edbeeching/decision-transformer-gym-{name}"
    return ControlTask(f"d4rl-{name}", host, spec, target, 1000, f"{name}-v2", None, reference)


CORRIDORS = (20, 40, 80, 160, 300)
_ALL = (*map(_tmaze, CORRIDORS), _hopper("hopper", None), _hopper("hopper-hidden", 5))
TASKS = {task.name: task for task in _ALL}  # whose hosts this project trains
_PLAYED = [_d4rl(environment, play) for environment in _GYM for play in ("medium", "medium-replay", "expert")]
D4RL = {task.name: task for task in _PLAYED}


def find_task(name: str) -> ControlTask:
    """A task by name; ValueError for an unknown one."""
    known = TASKS | D4RL
    if name not in known:
        raise ValueError(f"unknown control task {name!r}; expected one of {', '.join(known)}")
    return known[name]
