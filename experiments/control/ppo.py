"""An actor learned by PPO (stable-baselines3), for the environments where a linear policy learns no gait."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from experiments.control.policy import Policy


@dataclass(frozen=True)
class Actor(Policy):
    """The likeliest action of PPO's network, for states normalised as they were when it learned."""

    network: nn.Sequential = field(repr=False)
    moments: RunningMeanStd = field(repr=False)
    space: spaces.Box = field(repr=False)

    def act(self, state: Float[np.ndarray, " state"]) -> Float[np.ndarray, " action"]:
        normal = np.clip((state - self.moments.mean) / np.sqrt(self.moments.var + 1e-8), -10.0, 10.0)
        with torch.inference_mode():
            return self.network(torch.from_numpy(normal.astype(np.float32))).numpy()


def learn(env: gym.Env[Any, Any], seed: int) -> Iterator[tuple[Actor, float]]:
    """The actor after every 2,048 steps of play, without end, each with the mean return of its last 100 episodes.

    Settings are stable-baselines3's own but for states and rewards, which are normalised as they run, and the noise
    that PPO starts with, exp(-1).
    """
    played = VecNormalize(DummyVecEnv([lambda: Monitor(env)]))
    model = PPO("MlpPolicy", played, seed=seed, policy_kwargs={"log_std_init": -1.0}, device="cpu")
    assert isinstance(env.action_space, spaces.Box)
    while True:
        model.learn(model.n_steps, reset_num_timesteps=False)
        ended = [episode["r"] for episode in model.ep_info_buffer or ()]
        network = nn.Sequential(model.policy.mlp_extractor.policy_net, model.policy.action_net)
        moments = cast(RunningMeanStd, played.obs_rms)
        found = Actor(deepcopy(network), deepcopy(moments), env.action_space)
        yield found, float(np.mean(ended)) if ended else -np.inf
