"""Batches that a Decision Transformer learns from, and the scaling of states and returns that ends in its weights."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DecisionTransformerModel

from experiments.control.datasets import Episode


class Batch(NamedTuple):
    """Windows of episodes of one task; `real` is 0 behind the end of an episode."""

    states: Float[Tensor, "batch step state"]
    actions: Float[Tensor, "batch step action"]
    returns: Float[Tensor, "batch step 1"]
    timesteps: Tensor
    real: Float[Tensor, "batch step"]


def draw(rng: np.random.Generator, episodes: Sequence[Episode], context: int, batch: int) -> Batch:
    """Random windows of at most `context` steps, padded to the longest."""
    chosen = [episodes[i] for i in rng.integers(len(episodes), size=batch)]
    starts = [int(rng.integers(max(1, len(one.returns) - context + 1))) for one in chosen]
    cut = [Episode(*(part[s : s + context] for part in one)) for one, s in zip(chosen, starts, strict=True)]
    sizes = np.array([len(one.returns) for one in cut])
    states, actions, returns = (
        torch.from_numpy(np.stack([_padded(one[part], int(sizes.max())) for one in cut])) for part in range(3)
    )
    steps = np.arange(sizes.max())
    real = torch.from_numpy((steps < sizes[:, None]).astype(np.float32))
    timesteps = np.array(starts)[:, None] + np.minimum(steps, sizes[:, None] - 1)
    return Batch(states, actions, returns[..., None], torch.from_numpy(timesteps), real)


def _padded(values: np.ndarray, length: int) -> np.ndarray:
    return np.pad(values, [(0, length - len(values))] + [(0, 0)] * (values.ndim - 1))


def scaling(data: Sequence[Sequence[Episode]]) -> tuple[Episode, Episode]:
    """What is taken off states, and what states and returns are divided by: mean and deviation over all steps.

    Actions, and what does not vary, stay as they are.
    """
    whole = [one for episodes in data for one in episodes]
    states, returns = (np.concatenate([getattr(one, name) for one in whole]) for name in ("states", "returns"))
    spread = [np.where(x.std(0) > 1e-6, x.std(0), 1.0).astype(np.float32) for x in (states, returns)]
    zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
    return Episode(states.mean(0), zero, zero), Episode(spread[0], one, spread[1])


def scaled(one: Episode, mean: Episode, spread: Episode) -> Episode:
    """An episode as the model learns it."""
    return Episode(*((x - m) / s for x, m, s in zip(one, mean, spread, strict=True)))


@torch.no_grad()
def fold(model: DecisionTransformerModel, mean: Episode, spread: Episode) -> None:
    """Let the model take states and returns as they are: `scaled` becomes part of its first layers."""
    model.embed_state.weight.div_(torch.as_tensor(spread.states))
    model.embed_state.bias.sub_(model.embed_state.weight @ torch.as_tensor(mean.states))
    model.embed_return.weight.div_(torch.as_tensor(spread.returns))
