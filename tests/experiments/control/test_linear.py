"""Augmented random search finds a linear policy, and its play is what was asked for."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from experiments.control.linear import Moments, SearchConfig, search


class Follow(gym.Env[np.ndarray, np.ndarray]):
    """Rewards actions near minus the state's first part; 20 steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.steps = 0
        return self._draw(), {}

    def _draw(self) -> np.ndarray:
        self.state = 5.0 + self.np_random.normal(size=2)
        return self.state

    def step(self, action: np.ndarray):
        reward = 1.0 - (float(action[0]) + 0.5 * (self.state[0] - 5.0)) ** 2
        self.steps += 1
        return self._draw(), reward, False, self.steps == 20, {}


def test_search_finds_what_is_rewarded() -> None:
    config = SearchConfig(rate=0.05, noise=0.05, bonus=0.0)
    policy = search(Follow(), config, 19.95, lambda *_: None)
    state = policy.mean + policy.deviation
    assert policy.act(state)[0] == pytest.approx(-0.5, abs=0.2)
    act = policy.player(0.0)(np.random.default_rng(0))
    assert act(policy.mean + 1e3)[0] == -1.0 and act(state).dtype == np.float32
    with pytest.raises(ValueError, match=r"no policy returned 30.0 in 2 iterations"):
        search(Follow(), SearchConfig(limit=2), 30.0, lambda *_: None)


def test_play_is_noisy_as_asked() -> None:
    policy = search(Follow(), SearchConfig(rate=0.05, noise=0.05, bonus=0.0), 10.0, lambda *_: None)
    spread = [np.std([act(policy.mean)[0] for _ in range(200)]) for act in map(policy.player(0.2), _rngs(40))]
    assert 0.15 < max(spread) < 0.22 and min(spread) < 0.05


def _rngs(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(count)]


def test_moments_are_those_of_the_states() -> None:
    states = np.random.default_rng(0).normal(3.0, [1.0, 5.0], size=(50, 2))
    moments = Moments(0, np.zeros(2), np.zeros(2))
    for state in states:
        moments.add(state)
    np.testing.assert_allclose(moments.mean, states.mean(0))
    np.testing.assert_allclose(moments.deviation, states.std(0, ddof=1))
