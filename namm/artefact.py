"""A memory ready for use: made, loaded by path, name or hub id, saved to a folder, pushed to the hub."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from huggingface_hub import ModelCard, ModelHubMixin

from namm import folder
from namm.card import is_generated, model_card
from namm.config import MemoryConfig
from namm.contract import NO_PARAMETERS, Parameters, Policy
from namm.hub import locate
from namm.model import NammPolicy, initial_parameters
from namm.policies import POLICIES, load_policy
from namm.selection import SelectionConfig

PRETRAINED = Path(__file__).parent / "pretrained"
CARD = "README.md"


@dataclass(frozen=True)
class Memory(ModelHubMixin, library_name="namm", tags=["kv-cache", "neural-attention-memory-model"]):
    """A policy ready for use: what scores, how scores become kept slots, how often, and where it came from.

    provenance: host, tasks, generations, seed, commit and the like, as recorded by the run that made it.
    """

    # The mixin wants to derive a configuration from constructor arguments and set it on the instance, which is frozen
    # and writes a strict config.json of its own. It leaves both alone where a configuration is there already.
    _hub_mixin_config = {"format_version": folder.FORMAT_VERSION}  # noqa: RUF012

    name: str
    policy: Policy
    selection: SelectionConfig
    interval: int
    params: Parameters = NO_PARAMETERS
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def population(self) -> Parameters:
        """The parameters as a population of one."""
        return Parameters(jax.tree.map(lambda x: jnp.asarray(x)[None], self.params.evolved), self.params.frozen)

    @property
    def _contents(self) -> folder.Contents:
        return folder.Contents(self.name, self.policy, self.params, self.provenance)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write `memory.safetensors`, `config.json` and a model card; options as in `huggingface_hub.ModelHubMixin`.

        A card that was not written by this library stays. ValueError, before anything is touched, for a training-free
        policy and for what could not be loaded again.
        """
        folder.encode(self._contents)
        return super().save_pretrained(save_directory, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Save to a repository of the Hugging Face hub, made where there is none; returns the address of the commit.

        Needs `hf auth login` or token=...; further options as in `huggingface_hub.ModelHubMixin`.
        """
        folder.encode(self._contents)
        return super().push_to_hub(repo_id, **{"model_card_kwargs": {"source": repo_id}, **options})

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None, **download: Any
    ) -> "Memory":
        """A trained memory from a folder or a hub id `owner/name`.

        revision: branch, tag or commit of a hub id. download: cache_dir, local_files_only, token, force_download.
        FileNotFoundError for what is not there, ValueError for anything odd in it.
        """
        name, policy, params, provenance = folder.read(locate(pretrained_model_name_or_path, revision, **download))
        assert isinstance(policy, NammPolicy)
        return cls(name, policy, policy.config.selection, policy.config.interval, params, provenance)

    def generate_model_card(self, *, source: str = "owner/name") -> ModelCard:
        """The card that goes beside the weights; `source` is what its example loads."""
        return model_card(self._contents, self._hub_mixin_info.model_card_data, source)

    def _save_pretrained(self, save_directory: Path) -> None:
        card = save_directory / CARD
        if card.is_file() and is_generated(card):
            card.unlink()  # the mixin writes one where there is none
        folder.write(save_directory, self._contents)


def make(name: str, config: MemoryConfig, params: Parameters | None = None, **provenance: Any) -> Memory:
    """A NAMM from its configuration; without parameters, where a search would start."""
    policy = NammPolicy(config)
    return Memory(name, policy, config.selection, config.interval, params or initial_parameters(policy), provenance)


def training_free(name: str, interval: int = 512, recent: int = 1, sinks: int = 0) -> Memory:
    """A hand-written policy under a budget; the protected tokens are the caller's choice, alike for all it compares."""
    selection = SelectionConfig(threshold=None, recent=recent, sinks=sinks)
    return Memory(name, load_policy(name), selection, interval)


def load(source: str | Path, revision: str | None = None) -> Memory:
    """A memory by what names it.

    source: a folder, the name of a memory that ships with the library, a training-free policy, or a hub id
    `owner/name`, where `revision` may be a branch, tag or commit. Errors as in `Memory.from_pretrained`.
    """
    name = str(source)
    if "/" in name or os.path.exists(name):
        return Memory.from_pretrained(source, revision=revision)
    if revision is not None:
        raise ValueError(f"revision is {revision!r}, but {name!r} is no hub id; expected owner/name")
    if name in shipped():
        return Memory.from_pretrained(PRETRAINED / name)
    if name.partition(":")[0] not in POLICIES:
        raise ValueError(
            f"unknown memory {name!r}; expected a folder, a hub id owner/name, one that ships ({', '.join(shipped())}) "
            f"or a policy ({', '.join(POLICIES)})"
        )
    return training_free(name)


def shipped() -> list[str]:
    """Names of the trained memories that come with the library."""
    return sorted(path.parent.name for path in PRETRAINED.glob(f"*/{folder.CONFIG}"))
