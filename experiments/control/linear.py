"""A linear policy found by augmented random search (arXiv 1803.07055, V2-t), the source of recorded MuJoCo play."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from jaxtyping import Float

from experiments.control.policy import Policy


@dataclass
class Moments:
    """Running mean and deviation of states (Welford)."""

    count: int
    mean: Float[np.ndarray, " state"]
    squares: Float[np.ndarray, " state"]

    def add(self, state: Float[np.ndarray, " state"]) -> None:
        self.count += 1
        change = state - self.mean
        self.mean = self.mean + change / self.count
        self.squares = self.squares + change * (state - self.mean)

    @property
    def deviation(self) -> Float[np.ndarray, " state"]:
        spread = np.sqrt(self.squares / max(self.count - 1, 1))
        return np.where(spread < 1e-7, 1.0, spread)


@dataclass(frozen=True)
class SearchConfig:
    """The paper's settings for Hopper. directions: tried in both senses an iteration; best: how many of them count."""

    directions: int = 8
    best: int = 4
    rate: float = 0.01
    noise: float = 0.025
    bonus: float = 1.0  # of a step that does not fall, left out of what is maximised
    seed: int = 0


@dataclass(frozen=True)
class LinearPolicy(Policy):
    """Actions as a matrix times the state, normalised by mean and deviation."""

    weights: Float[np.ndarray, "action state"]
    mean: Float[np.ndarray, " state"]
    deviation: Float[np.ndarray, " state"]
    space: spaces.Box = field(repr=False)

    def act(self, state: Float[np.ndarray, " state"]) -> Float[np.ndarray, " action"]:
        return self.weights @ ((state - self.mean) / self.deviation)


def search(env: gym.Env[Any, Any], config: SearchConfig) -> Iterator[tuple[LinearPolicy, float]]:
    """The policy of one iteration after the other, without end, each with the return of one episode of it."""
    assert isinstance(env.observation_space, spaces.Box) and isinstance(env.action_space, spaces.Box)
    size, rng = env.observation_space.shape[0], np.random.default_rng(config.seed)
    weights, moments = np.zeros((env.action_space.shape[0], size)), Moments(0, np.zeros(size), np.zeros(size))
    env.reset(seed=config.seed)

    def policy(matrix: np.ndarray) -> LinearPolicy:
        return LinearPolicy(matrix, moments.mean, moments.deviation, env.action_space)  # pyright: ignore[reportArgumentType]

    while True:
        tries = rng.normal(size=(config.directions, *weights.shape))
        found = policy(weights)  # one normalisation for all that is compared
        moved = [[replace(found, weights=weights + s * config.noise * t) for s in (1, -1)] for t in tries]
        ends = [[_rollout(env, one, moments) for one in pair] for pair in moved]
        gains = np.array([[total - config.bonus * steps for total, steps in pair] for pair in ends])
        top = np.argsort(-gains.max(1))[: config.best]
        change = np.einsum("d,das->as", gains[top, 0] - gains[top, 1], tries[top])
        weights = weights + config.rate / (config.best * max(float(gains[top].std()), 1e-6)) * change
        yield policy(weights), _rollout(env, policy(weights), None)[0]


def _rollout(env: gym.Env[Any, Any], policy: LinearPolicy, moments: Moments | None) -> tuple[float, int]:
    """Return and steps of one episode; states are added to `moments`."""
    state, _ = env.reset()
    total, steps, over = 0.0, 0, False
    while not over:
        if moments is not None:
            moments.add(state)
        state, reward, ended, cut, _ = env.step(policy.clip(policy.act(state)))
        total, steps, over = total + float(reward), steps + 1, ended or cut
    return total, steps
