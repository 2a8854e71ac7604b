"""Record the Hopper play that the `dt-hopper` hosts learn from: `python -m experiments.recipes.record_hopper`.

Medium play: a linear policy that augmented random search has brought to a return of `target`, with noise on its
actions. Not D4RL's data: another policy, another version of the environment.
"""

import logging
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import tyro

from experiments.control.datasets import read, record
from experiments.control.linear import SearchConfig, search
from experiments.control.tasks import find_task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordConfig:
    """episodes: recorded. target: return at which the search ends. spread: largest deviation of the
    noise on actions."""

    episodes: int = 600
    target: float = 1500.0
    spread: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.spread < 0:
            raise ValueError(f"episodes is {self.episodes}, spread {self.spread}; expected 1 or more, and 0 or more")


def main(config: RecordConfig) -> None:
    """Search, play, keep the dataset."""
    task = find_task("hopper")
    env = task.make()
    long = gym.make("Hopper-v5")  # the search is for play that does not fall later either
    policy = search(long, SearchConfig(seed=config.seed), config.target, lambda *line: log.info("%d: %.0f", *line))
    record(env, policy.player(config.spread), config.episodes, config.seed, task.data)
    returns = [one.returns[0] for one in read(task.data)]
    log.info("%s: returns %.0f, %.0f to %.0f", task.data, np.mean(returns), min(returns), max(returns))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main(tyro.cli(RecordConfig, description=__doc__))
