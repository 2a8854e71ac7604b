"""Record the play that the MuJoCo hosts learn from: `python -m experiments.recipes.record_mujoco --environment hopper`.

A policy learns until it reaches a medium return of a whole episode, and on to a high one: a linear policy by augmented
random search, Walker2d's by PPO. With noise on its actions, one Minari dataset for each kind of play, named as D4RL
names them: `medium` is the policy that first reached the medium return, `medium-replay` what it was on the way there,
`medium-expert` half of its episodes from the medium policy and half from the one that reached the high return. Not
D4RL's data: other policies, another version of the environments, episodes cut where the task cuts them.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import tyro

from experiments.control.datasets import Player, read, record
from experiments.control.linear import SearchConfig, search
from experiments.control.policy import Policy
from experiments.control.ppo import learn
from experiments.control.tasks import PLAY, find_task, recording

log = logging.getLogger(__name__)


class Source(NamedTuple):
    """Where play comes from: the environment, what learns from a seed, and the two returns."""

    environment: str
    learn: Callable[[gym.Env[Any, Any], int], Iterator[tuple[Policy, float]]]
    medium: float
    expert: float


def by_search(config: SearchConfig) -> Callable[[gym.Env[Any, Any], int], Iterator[tuple[Policy, float]]]:
    """Augmented random search with these settings."""
    return lambda env, seed: search(env, replace(config, seed=seed))


# The searches' settings are those of arXiv 1803.07055 (V2-t for Hopper, V1 for HalfCheetah).
SOURCES = {
    "halfcheetah": Source("HalfCheetah-v5", by_search(SearchConfig(32, 4, 0.02, 0.03, bonus=0.0)), 3500.0, 5000.0),
    "hopper": Source("Hopper-v5", by_search(SearchConfig()), 1500.0, 3000.0),
    "walker2d": Source("Walker2d-v5", learn, 1500.0, 3000.0),
}


@dataclass(frozen=True)
class RecordConfig:
    """play: kinds of it, a dataset each. episodes: of each. spread: largest deviation of the noise on actions. limit:
    iterations of search or learning."""

    environment: str = "hopper"
    play: tuple[str, ...] = ("medium",)
    episodes: int = 600
    spread: float = 0.1
    seed: int = 0
    limit: int = 2000

    def __post_init__(self) -> None:
        if self.environment not in SOURCES:
            raise ValueError(f"environment is {self.environment!r}; expected one of {', '.join(SOURCES)}")
        if unknown := [name for name in self.play if name not in PLAY]:
            raise ValueError(f"play is {unknown[0]!r}; expected some of {', '.join(PLAY)}")
        if not self.play:
            raise ValueError(f"play is empty; expected some of {', '.join(PLAY)}")
        if min(self.episodes, self.limit) < 1 or self.spread < 0:
            got = f"episodes is {self.episodes}, limit {self.limit}, spread {self.spread}"
            raise ValueError(f"{got}; expected 1 or more, 1 or more, and 0 or more")


def reach(found: Iterator[tuple[Policy, float]], target: float) -> list[Policy]:
    """Policies of the search up to the first that returns `target`; ValueError where it ends before."""
    way: list[Policy] = []
    for policy, returned in found:
        if len(way) % 10 == 0:
            log.info("%d: %.0f of %.0f", len(way), returned, target)
        way.append(policy)
        if returned >= target:
            log.info("%d iterations: %.0f", len(way), returned)
            return way
    raise ValueError(f"no policy returned {target} within the limit of iterations; try another seed")


def mixture(policies: Sequence[Policy], spread: float) -> Player:
    """Play of a policy drawn for every episode."""
    players = [policy.player(spread) for policy in policies]
    return lambda rng: players[rng.integers(len(players))](rng)


def main(config: RecordConfig) -> None:
    """Search, play, keep the datasets."""
    source, env = SOURCES[config.environment], find_task(config.environment).make()
    long = gym.make(source.environment)  # the search is for play that does not fall later either
    found = islice(source.learn(long, config.seed), config.limit)
    way = reach(found, source.medium)
    players = {"medium": way[-1:], "medium-replay": way}
    if "medium-expert" in config.play:
        players["medium-expert"] = [way[-1], reach(found, source.expert)[-1]]
    for play in config.play:
        name = recording(config.environment, play)
        record(env, mixture(players[play], config.spread), config.episodes, config.seed, name)
        returns = [one.returns[0] for one in read(name)]
        log.info("%s: returns %.0f, %.0f to %.0f", name, np.mean(returns), min(returns), max(returns))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main(tyro.cli(RecordConfig, description=__doc__))
