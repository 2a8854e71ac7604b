"""Train a Decision Transformer on recorded play: `python -m experiments.recipes.train_decision --host dt-tmaze`.

Claim: see the README of each folder in hosts/pretrained. Every batch is of one task of the host; in the first half of
the steps the tasks join one by one, the shortest first. Batches follow from the seed and the step's number, so that a
run that is killed and started again gives the same weights. The weights take states and returns as the environment
gives them: their scaling is folded into the first layers at the end.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import torch
import tyro
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from transformers import DecisionTransformerConfig, DecisionTransformerModel

from experiments.control.batches import Batch, draw, fold, scaled, scaling
from experiments.control.datasets import read
from experiments.control.tasks import TASKS, ControlTask
from hosts.weights import PRETRAINED

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainConfig:
    """What is trained, how long, and where files go. step_tokens: of a batch, three a step of an episode."""

    host: str = "dt-tmaze"
    output: Path | None = None  # default: among the pretrained hosts
    checkpoints: Path | None = None  # default: runs/HOST
    seed: int = 0
    steps: int = 1500
    step_tokens: int = 8192
    width: int = 64
    layers: int = 2
    heads: int = 2
    rate: float = 1e-3
    decay: float = 1e-2
    warmup: int = 100
    save_every: int = 100

    def __post_init__(self) -> None:
        if not self.tasks:
            known = sorted({task.host for task in TASKS.values()})
            raise ValueError(f"host is {self.host!r}; expected one of {', '.join(known)}")
        if min(self.steps, self.width, self.layers, self.heads) < 1 or self.width % self.heads:
            raise ValueError(f"{self}; expected sizes of 1 or more and a width that the heads divide")
        if self.step_tokens < 3 * self.context:
            raise ValueError(f"step_tokens is {self.step_tokens}; expected at least {3 * self.context}, one context")

    @property
    def tasks(self) -> tuple[ControlTask, ...]:
        """What the host plays."""
        return tuple(task for task in TASKS.values() if task.host == self.host)

    @property
    def context(self) -> int:
        """Steps of the longest context."""
        return max(task.context for task in self.tasks)


def loss(model: DecisionTransformerModel, batch: Batch, choice: bool) -> Float[Tensor, ""]:
    """Squared error of continuous actions, cross-entropy (nats) of choices; every choice counts alike in a batch,
    however rare it is (a turn at the end of a long corridor)."""
    out: Any = model(
        states=batch.states, actions=batch.actions, rewards=None, returns_to_go=batch.returns, timesteps=batch.timesteps
    )
    found, wanted = out.action_preds[batch.real > 0], batch.actions[batch.real > 0]
    if not choice:
        return mse_loss(found, wanted)
    return cross_entropy(found, wanted.argmax(-1), weight=1.0 / wanted.sum(0).clamp(min=1.0))


def build(config: TrainConfig, state: int, action: int, choice: bool) -> DecisionTransformerModel:
    """An untrained model for the host's environments."""
    torch.manual_seed(config.seed)
    settings = DecisionTransformerConfig(
        state_dim=state,
        act_dim=action,
        hidden_size=config.width,
        n_layer=config.layers,
        n_head=config.heads,
        max_ep_len=max(config.context, *(task.environment.max_episode_steps or 0 for task in config.tasks)),
        n_positions=1,  # `DecisionTransformerModel` puts every token at position 0 and adds the timestep
        action_tanh=not choice,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return DecisionTransformerModel(settings)


def train(config: TrainConfig) -> DecisionTransformerModel:
    """Train from the newest checkpoint, or from the start, to the last step."""
    data = [read(task.data, task.visible) for task in config.tasks]
    mean, spread = scaling(data)
    data = [[scaled(one, mean, spread) for one in episodes] for episodes in data]
    choice = isinstance(config.tasks[0].make().action_space, spaces.Discrete)
    model = build(config, data[0][0].states.shape[1], data[0][0].actions.shape[1], choice)
    update = torch.optim.AdamW(model.parameters(), lr=config.rate, weight_decay=config.decay)
    folder = config.checkpoints or Path("runs") / config.host
    options = ocp.CheckpointManagerOptions(max_to_keep=2, save_interval_steps=config.save_every)
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        done = manager.latest_step()
        if done is not None:
            restore(model, update, manager.restore(done, args=ocp.args.StandardRestore()))
            log.info("resumed after step %d", done)
        for step in range(0 if done is None else done + 1, config.steps):
            rng = np.random.default_rng([config.seed, step])
            which = int(rng.integers(min(len(data), 1 + 2 * len(data) * step // config.steps)))
            context = config.tasks[which].context
            found = loss(model, draw(rng, data[which], context, config.step_tokens // (3 * context)), choice)
            for group in update.param_groups:
                group["lr"] = config.rate * min((step + 1) / config.warmup, 1.02 - step / config.steps)
            update.zero_grad()
            found.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            update.step()
            if step % 20 == 0 or step == config.steps - 1:
                log.info("step %d %s loss %.5f", step, config.tasks[which].name, found.item())
            manager.save(step, args=ocp.args.StandardSave(snapshot(model, update)))
    fold(model, mean, spread)
    return model.eval()


def snapshot(model: nn.Module, update: torch.optim.Optimizer) -> dict[str, Any]:
    """Weights and optimiser state as arrays."""

    def arrays(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
        return {name: x.numpy().copy() for name, x in tensors.items()}  # training goes on while they are written

    state = update.state_dict()["state"]
    return {"model": arrays(model.state_dict()), "update": {str(i): arrays(one) for i, one in state.items()}}


def restore(model: nn.Module, update: torch.optim.Optimizer, kept: dict[str, Any]) -> None:
    """Put a snapshot back."""
    model.load_state_dict({name: torch.from_numpy(np.array(x)) for name, x in kept["model"].items()})
    state = {int(i): {k: torch.from_numpy(np.array(x)) for k, x in one.items()} for i, one in kept["update"].items()}
    update.load_state_dict({**update.state_dict(), "state": state})


def main(config: TrainConfig) -> None:
    """Train and write the host."""
    log.info("%s", asdict(config))
    model = train(config)
    log.info("%d parameters", sum(x.numel() for x in model.parameters()))
    model.save_pretrained(config.output or PRETRAINED / config.host)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("absl").setLevel(logging.WARNING)
    main(tyro.cli(TrainConfig, description=__doc__))
