"""Record the T-maze play that `dt-tmaze` learns from: `python -m experiments.recipes.record_tmaze`.

A mixture of good and bad scripted play (`experiments.control.tmaze.walker`), one Minari dataset for each corridor.
"""

import logging
from dataclasses import dataclass

import tyro

from experiments.control.datasets import record
from experiments.control.tasks import CORRIDORS, find_task
from experiments.control.tmaze import walker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordConfig:
    """corridors: one dataset each. episodes: of each."""

    corridors: tuple[int, ...] = CORRIDORS
    episodes: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"episodes is {self.episodes}; expected 1 or more")


def main(config: RecordConfig) -> None:
    """Play and keep the datasets."""
    for corridor in config.corridors:
        task = find_task(f"tmaze-{corridor}")
        record(task.make(), walker, config.episodes, config.seed + corridor, task.data)
        log.info("%s: %d episodes", task.data, config.episodes)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main(tyro.cli(RecordConfig, description=__doc__))
