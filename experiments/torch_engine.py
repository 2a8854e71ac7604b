"""Evaluation through `transformers` and `hosts.pytorch`, with the scores of the JAX engine."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Array, Int

from experiments.tasks.encoding import Batch
from hosts.pytorch.answer import Rows, answer
from hosts.pytorch.pretrained import everywhere, load_model, outline
from hosts.weights import MIXED
from namm.artefact import Memory


class TorchEngine:
    """Answers of a named host's `transformers` model (an `OtherEngine` of `experiments.answers`).

    Any decoder that `attach` takes, on the accelerators that there are. host: what prompts and tables need to know.
    """

    def __init__(self, source: str | Path, dtype: str):
        if dtype == MIXED:
            raise ValueError(f"dtype is {dtype!r}, which the JAX engine alone has; expected float32 or bfloat16")
        self.model = load_model(source, getattr(torch, dtype), everywhere())
        self.host = outline(source, self.model)

    def __call__(
        self, memory: Memory, budget: tuple[int, ...] | None, prompt: Batch, limits: Array
    ) -> tuple[Int[np.ndarray, "prompt step"], Int[np.ndarray, "layer prompt head"]]:
        """Generated ids and kept tokens."""
        context, question = rows(prompt)
        found = answer(self.model, memory, budget, context, question, tensor(limits), self.host.spec.eos_ids)
        return found.tokens.numpy(), found.held.numpy()


def rows(prompt: Batch) -> tuple[Rows, Rows]:
    """Contexts and questions as `hosts.pytorch` takes them."""
    return Rows(*map(tensor, prompt[:2])), Rows(*map(tensor, prompt[2:4]))


def tensor(integers: Array | np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(integers, np.int64))
