"""Play recorded as Minari datasets, and read back as what a Decision Transformer learns from.

Minari keeps datasets in ~/.minari/datasets, or in the folder that MINARI_DATASETS_PATH names.
"""

import gc
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import minari
import numpy as np
from gymnasium import spaces
from jaxtyping import Float

Player = Callable[[np.random.Generator], Callable[[Any], Any]]  # per episode, observation -> action


class Episode(NamedTuple):
    """One episode; returns: what is still to come at every step, its own reward included."""

    states: Float[np.ndarray, "step state"]
    actions: Float[np.ndarray, "step action"]
    returns: Float[np.ndarray, " step"]


def record(env: gym.Env[Any, Any], player: Player, episodes: int, seed: int, name: str) -> None:
    """Play episodes and keep them as the Minari dataset `name`, in place of one that is there.

    ValueError for a name that Minari does not take.
    """
    collector = minari.DataCollector(env)
    for index in range(episodes):
        rng = np.random.default_rng([seed, index])
        observation, _ = collector.reset(seed=int(rng.integers(2**31)))
        act, over = player(rng), False
        while not over:
            observation, _, ended, cut, _ = collector.step(act(observation))
            over = ended or cut
    if name in minari.list_local_datasets():
        minari.delete_dataset(name)
    with warnings.catch_warnings():
        # Minari asks for author, address and code, of data that stay here, and leaves its folders to the collector
        warnings.filterwarnings("ignore", category=UserWarning, module="minari")
        warnings.filterwarnings("ignore", category=ResourceWarning)
        collector.create_dataset(name)
        collector.close()
        del collector
        gc.collect()


def read(name: str, visible: int | None = None) -> list[Episode]:
    """The episodes of a dataset, with the leading `visible` parts of the observations where that is given.

    FileNotFoundError where there is no such dataset.
    """
    try:
        data = minari.load_dataset(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name}: no such Minari dataset here; record it first") from error
    return [
        Episode(
            np.asarray(one.observations, np.float32)[:-1, :visible],
            actions_as_vectors(data.action_space, one.actions),
            np.cumsum(one.rewards[::-1])[::-1].astype(np.float32),
        )
        for one in data.iterate_episodes()
    ]


def actions_as_vectors(space: gym.Space[Any], actions: Any) -> Float[np.ndarray, "*step action"]:
    """One action or several as the model reads and writes them: one-hot where they are choices."""
    if isinstance(space, spaces.Discrete):
        return np.eye(int(space.n), dtype=np.float32)[actions]
    return np.asarray(actions, np.float32)
