"""A memory from a checkpoint of the original implementation (arXiv 2410.13166): its arrays by name, to a `Memory`.

The original keeps a whole evolution state: the search's mean and best member as flat vectors of BAM parameters, its
covariance and paths, and the running statistics of the spectrum under names that end in `output_mean` and so on.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from namm.artefact import Memory
from namm.config import MemoryConfig
from namm.contract import Parameters
from namm.model import NammPolicy
from namm.network import from_flat

Member = Literal["mean", "best_member"]
SEARCH = {
    "mean", "best_member", "best_fitness", "g", "sigma", "C", "evo_path_c", "evo_path_sigma",
    "sample_C", "sample_B", "sample_D", "x", "y", "mu_eff", "weights", "weights_truncated",
}  # fmt: skip
# not read: `online_new_`, an unfinished pass, and `best_`, which the original leaves behind when the best improves
STATISTIC = re.compile(r"(best_)?stored_buffers_to_save\.(.+?_)??(?P<kind>(online_new_)?output_(mean|var|num))")
COMPILED = "_orig_mod."  # put before every name by torch.compile


def from_original(
    state: Mapping[str, np.ndarray], name: str, member: Member = "mean", interval: int = 512
) -> Memory:
    """The memory that an evolution state of the original describes, in its released configuration.

    state: its named arrays. member: "mean" is what the original reports, "best_member" the best single candidate.
    interval: tokens between updates, the original's fixed delay, which the state does not hold. ValueError for a
    missing or unknown entry, a wrong shape, numbers that are not finite, and statistics that were never gathered.
    """
    state = {key.removeprefix(COMPILED): value for key, value in state.items()}
    unknown = sorted(key for key in state if key not in SEARCH and not STATISTIC.fullmatch(key))
    if unknown:
        raise ValueError(f"unknown entries {unknown}; expected an evolution state of the original, {sorted(SEARCH)}")
    policy = NammPolicy(MemoryConfig(interval=interval), name)
    bins = policy.config.spectrum.bins
    mean, variance, count = (_statistic(state, kind, bins) for kind in ("output_mean", "output_var", "output_num"))
    if np.any(variance < 0) or np.any(count < 1):
        raise ValueError(
            "the statistics hold a negative variance or a count of 0, so they were never gathered; "
            "convert a checkpoint from after the first evaluation"
        )
    flat = _numbers(state, member)
    if flat.ndim != 1:
        raise ValueError(f"{member!r} has shape {flat.shape}; expected one vector, shared by all layers and heads")
    params = Parameters(
        from_flat(flat, policy.initial_scorer()),
        {"mean": jnp.asarray(mean), "variance": jnp.asarray(variance)},
    )
    provenance: dict[str, Any] = {"converted_from": "the original's checkpoint", "member": member}
    if "g" in state:
        provenance["generations"] = int(_numbers(state, "g").item())
    return Memory(name, policy, policy.config.selection, interval, params, provenance)


def _statistic(state: Mapping[str, np.ndarray], kind: str, bins: int) -> np.ndarray:
    """One number a frequency; the original keeps leading axes of size 1."""
    found = {key: STATISTIC.fullmatch(key) for key in state if not key.startswith("best_")}
    keys = [key for key, match in found.items() if match and match["kind"] == kind]
    if len(keys) != 1:
        raise ValueError(f"statistics {kind}: found {keys}; expected one entry stored_buffers_to_save.*{kind}")
    values = _numbers(state, keys[0])
    if values.size != bins or values.shape[-1:] != (bins,):
        raise ValueError(f"{keys[0]} has shape {values.shape}; expected ({bins},), one number a frequency")
    return values.reshape(bins)


def _numbers(state: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    if key not in state:
        raise ValueError(f"{key!r} is missing; got {sorted(state)}")
    values = np.asarray(state[key], np.float32)
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{key!r} holds numbers that are not finite; convert another checkpoint")
    return values
