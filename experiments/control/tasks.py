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


@dataclass(frozen=True)
class _Gym:
    """A MuJoCo environment: gymnasium's class, D4RL's mean returns of random and of expert play (v2), the return that
    arXiv 2106.01345 asks for, those that 300 steps are asked for here (what was learned from medium-expert play the
    second), how many positions and angles a state has."""

    entry: str
    reference: tuple[float, float]
    target: float
    short_targets: tuple[float, float]
    positions: int

    def spec(self, name: str, version: int, steps: int) -> EnvSpec:
        entry = f"gymnasium.envs.mujoco.{self.entry.format(version)}"
        return EnvSpec(f"{name}-v{version}", entry, max_episode_steps=steps)


_GYM = {
    "HalfCheetah": _Gym("half_cheetah_v{}:HalfCheetahEnv", (-280.178953, 12135.0), 6000.0, (1000.0, 1450.0), 8),
    "Hopper": _Gym("hopper_v{}:HopperEnv", (-20.272305, 3234.3), 3600.0, (900.0, 900.0), 5),
    "Walker2d": _Gym("walker2d_v{}:Walker2dEnv", (1.629008, 4592.3), 5000.0, (1200.0, 1200.0), 8),
}


def recording(environment: str, play: str) -> str:
    """The Minari dataset of this project's own play in a MuJoCo environment, `hopper` for instance."""
    return f"namm/{environment}/{play}-v0"


PLAY = ("medium", "medium-replay", "medium-expert")  # D4RL's names


def _cut(environment: str, hidden: bool, play: str = PLAY[0]) -> ControlTask:
    """An episode of at most 300 steps, observed in whole or by positions and angles alone."""
    lower, gym_env = environment.lower(), _GYM[environment]
    name, visible = (f"{lower}-hidden", gym_env.positions) if hidden else (lower, None)
    name = name if play == PLAY[0] else f"{name}-{play}"
    spec, target = gym_env.spec(environment, 5, 300), gym_env.short_targets[play == PLAY[2]]
    return ControlTask(name, f"dt-{name}", spec, target, 300, recording(lower, play), visible, gym_env.reference)


def _d4rl(environment: str, play: str) -> ControlTask:
    """A whole episode of 1,000 steps in the MuJoCo environment that is as in D4RL's v2."""
    name, gym_env = f"{environment.lower()}-{play}", _GYM[environment]
    host = f"edbeeching/decision-transformer-gym-{name}"
    spec = gym_env.spec(environment, 4, 1000)
    return ControlTask(f"d4rl-{name}", host, spec, gym_env.target, 1000, f"{name}-v2", None, gym_env.reference)


CORRIDORS = (20, 40, 80, 160, 300)
_MUJOCO = [_cut(environment, False) for environment in _GYM]
_MUJOCO += [_cut(environment, True, play) for environment in _GYM for play in PLAY]
TASKS = {task.name: task for task in (*map(_tmaze, CORRIDORS), *_MUJOCO)}  # whose hosts this project trains
_PLAYED = [_d4rl(environment, play) for environment in _GYM for play in ("medium", "medium-replay", "expert")]
D4RL = {task.name: task for task in _PLAYED}


def find_task(name: str) -> ControlTask:
    """A task by name; ValueError for an unknown one."""
    known = TASKS | D4RL
    if name not in known:
        raise ValueError(f"unknown control task {name!r}; expected one of {', '.join(known)}")
    return known[name]
