"""Train a Decision Transformer on recorded play: `python -m experiments.recipes.train_decision --host dt-tmaze`.

Claim: see the README of each folder in hosts/pretrained. Every batch is of one task of the host; in the first half of
the steps the tasks join one by one, the shortest first. Batches follow from the seed and the step's number, so that a
run that is killed and started again gives the same weights. The weights take states and returns as the environment
gives them: their scaling is folded into the first layers at the end.
"""

import logging
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import tyro
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss
from transformers import DecisionTransformerConfig, DecisionTransformerModel

from experiments.control.batches import Batch, draw, fold, scaled, scaling
from experiments.control.datasets import read
from experiments.control.tasks import TASKS, ControlTask
from experiments.gradient import FitConfig, fit
from hosts.weights import PRETRAINED

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainConfig(FitConfig):
    """step_tokens: of a batch, three a step of an episode."""

    host: str = "dt-tmaze"
    steps: int = 1500
    step_tokens: int = 8192
    width: int = 64
    layers: int = 2
    heads: int = 2
    decay: float = 1e-2

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

    def batch_loss(step: int, rng: np.random.Generator) -> Float[Tensor, ""]:
        which = int(rng.integers(min(len(data), 1 + 2 * len(data) * step // config.steps)))
        context = config.tasks[which].context
        found = loss(model, draw(rng, data[which], context, config.step_tokens // (3 * context)), choice)
        if step % 20 == 0 or step == config.steps - 1:
            log.info("step %d %s loss %.5f", step, config.tasks[which].name, found.item())
        return found

    fit(model, update, config, batch_loss)
    fold(model, mean, spread)
    return model.eval()


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
