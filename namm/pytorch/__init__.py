"""The update of `namm` in torch: features, scorers, selection and every policy, batch leading.

The one part of `namm` that needs torch; nothing else in `namm` imports it.
"""

from typing import Any

import jax
import numpy as np
import torch

from namm import policies
from namm.contract import Parameters, Policy, layer_parameters
from namm.model import NammPolicy
from namm.pytorch import attention, content, custom, position
from namm.pytorch.model import TorchNamm
from namm.pytorch.state import TorchPolicy

_PORTS: dict[type, type[position.BasePort]] = {
    policies.KeepAll: position.KeepAll,
    policies.SlidingWindow: position.SlidingWindow,
    policies.StreamingLLM: position.StreamingLLM,
    policies.Random: position.Random,
    policies.LogSparse: position.LogSparse,
    policies.SparseStrided: position.SparseStrided,
    policies.SparseFixed: position.SparseFixed,
    policies.HeavyHitters: attention.HeavyHitters,
    policies.LastQuery: attention.LastQuery,
    policies.WindowVote: attention.WindowVote,
    policies.ExpectedAttention: attention.ExpectedAttention,
    policies.KeyNorm: content.KeyNorm,
    policies.KeyDiff: content.KeyDiff,
    policies.LagKV: content.LagKV,
    policies.SirLLM: content.SirLLM,
    policies.ReleasedSirLLM: content.SirLLM,
    custom.CustomPolicy: custom.Custom,
}


def port(policy: Policy, params: Parameters, layer: int = 0) -> TorchPolicy:
    """The torch port of a policy of `namm` with its parameters (no pop axis), for one layer. ValueError if none."""
    if isinstance(policy, NammPolicy):
        evolved, frozen = jax.tree.map(_tensor, tuple(layer_parameters(policy, params, layer)))
        return TorchNamm(policy, evolved, frozen)
    if type(policy) not in _PORTS:
        names = ", ".join(sorted(policies.POLICIES))
        raise ValueError(f"policy {policy.name!r} has no torch port; expected a memory model or one of {names}")
    return _PORTS[type(policy)](policy)


def _tensor(leaf: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(leaf, np.float32))
