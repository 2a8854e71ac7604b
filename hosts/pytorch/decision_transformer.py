"""A `transformers` Decision Transformer (arXiv 2106.01345) with a key-value cache, step by step through episodes.

The stock forward recomputes a window at every step. Here every token is read once; with a memory attached, the memory
decides which of them stay. A step is three tokens of the memory's interval and budget: action, return to go, state.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DecisionTransformerModel

from hosts.weights import PRETRAINED


def load_player(source: str | Path) -> DecisionTransformerModel:
    """A Decision Transformer by the name of one that ships, or from a folder; FileNotFoundError for anything else."""
    path = PRETRAINED / source if (PRETRAINED / source).is_dir() else Path(source)
    if not (path / "config.json").is_file():
        names = sorted(found.parent.name for found in PRETRAINED.glob("dt-*/config.json"))
        raise FileNotFoundError(f"{source}: no Decision Transformer; expected {', '.join(names)} or a folder")
    return DecisionTransformerModel.from_pretrained(path, local_files_only=True).eval()


class Episodes:
    """A batch of episodes in step. `model`: a `DecisionTransformerModel`, with a memory attached or without."""

    def __init__(self, model: Any):
        self.model = model
        self.cache: Any = None
        self.timesteps: Int[Tensor, " batch"] | None = None

    @torch.no_grad()
    def act(
        self,
        states: Float[Tensor, "batch state"],
        returns: Float[Tensor, " batch"],
        timesteps: Int[Tensor, " batch"],
        taken: Float[Tensor, "batch action"] | None = None,
    ) -> Float[Tensor, "batch action"]:
        """The model's actions in `states` when `returns` are still to come.

        taken: the actions of the step before, which may differ from the model's; None at the first step alone, else
        ValueError.
        """
        if (taken is None) != (self.timesteps is None):
            wanted = "no actions before it" if self.timesteps is None else "the actions of the step before"
            raise ValueError(f"taken is {'missing' if taken is None else 'given'}; this step has {wanted}")
        model = self.model
        time = model.embed_timestep(timesteps)
        tokens = [model.embed_return(returns[:, None]) + time, model.embed_state(states) + time]
        if taken is not None:
            tokens.insert(0, model.embed_action(taken) + model.embed_timestep(self.timesteps))
        embeddings = model.embed_ln(torch.stack(tokens, dim=1))
        out = model.encoder(
            inputs_embeds=embeddings,
            past_key_values=self.cache,
            position_ids=torch.zeros(embeddings.shape[:2], dtype=torch.long, device=embeddings.device),
            use_cache=True,
        )
        self.cache, self.timesteps = out.past_key_values, timesteps
        return model.predict_action(out.last_hidden_state[:, -1])

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these episodes of the batch alone. ValueError before the first step."""
        if self.timesteps is None:
            raise ValueError("there are no episodes to choose from yet; act first")
        self.cache.batch_select_indices(rows)
        self.timesteps = self.timesteps[rows]
