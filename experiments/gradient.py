"""Gradient descent on a torch model in steps that a killed run takes up again: how the shipped hosts are trained."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import torch
from jaxtyping import Float
from torch import Tensor, nn

from experiments.records import claim

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitConfig:
    """What is trained, how long, and where files go. rate: learning rate after `warmup` steps, falling to 0."""

    host: str
    output: Path | None = None  # default: among the pretrained hosts
    checkpoints: Path | None = None  # default: runs/HOST
    seed: int = 0
    steps: int = 1000
    rate: float = field(default=1e-3, kw_only=True)
    warmup: int = field(default=100, kw_only=True)
    save_every: int = field(default=100, kw_only=True)


def fit(
    model: nn.Module,
    update: torch.optim.Optimizer,
    config: FitConfig,
    loss: Callable[[int, np.random.Generator], Float[Tensor, ""]],
    begin: Callable[[], None] = lambda: None,
) -> None:
    """Train from the newest checkpoint, or from the start, where `begin` is called first, to the last step.

    `loss` draws its batch from the generator it is given, which follows from the seed and the step's number.
    """
    folder = config.checkpoints or Path("runs") / config.host
    claim(folder, config)
    options = ocp.CheckpointManagerOptions(max_to_keep=2, save_interval_steps=config.save_every)
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        done = manager.latest_step()
        if done is None:
            begin()
        else:
            _restore(model, update, manager.restore(done, args=ocp.args.StandardRestore()))
            log.info("resumed after step %d", done)
        for step in range(0 if done is None else done + 1, config.steps):
            found = loss(step, np.random.default_rng([config.seed, step]))
            for group in update.param_groups:
                group["lr"] = config.rate * min((step + 1) / config.warmup, 1.02 - step / config.steps)
            update.zero_grad()
            found.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            update.step()
            manager.save(step, args=ocp.args.StandardSave(_snapshot(model, update)))


def _snapshot(model: nn.Module, update: torch.optim.Optimizer) -> dict[str, Any]:
    """Weights and optimiser state as arrays."""

    def arrays(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
        return {name: x.numpy().copy() for name, x in tensors.items()}  # training goes on while they are written

    state = update.state_dict()["state"]
    return {"model": arrays(model.state_dict()), "update": {str(i): arrays(one) for i, one in state.items()}}


def _restore(model: nn.Module, update: torch.optim.Optimizer, kept: dict[str, Any]) -> None:
    """Put a snapshot back."""
    model.load_state_dict({name: torch.from_numpy(np.array(x)) for name, x in kept["model"].items()})
    state = {int(i): {k: torch.from_numpy(np.array(x)) for k, x in one.items()} for i, one in kept["update"].items()}
    update.load_state_dict({**update.state_dict(), "state": state})
