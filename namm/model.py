"""The Neural Attention Memory Model as a policy: named features, frozen normalisation, an evolved scorer."""

from dataclasses import dataclass, field
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from namm.cache import CacheShape, SlotCache
from namm.config import MemoryConfig
from namm.content import CONTENT, content, content_of_read, nothing_read
from namm.contract import Observation, Parameters, PolicyState
from namm.features import SpectrumConfig, blocks, observe_spectrum, spectrum_slots
from namm.network import make_scorer

WATCHING = {"spectrum", "latest"}  # blocks of the attention that `observe_spectrum` takes in
DEVIATION_FLOOR = 1e-7  # of the normalised spectrum (arXiv 2410.13166, released configuration)


@dataclass(frozen=True)
class NammPolicy:
    """A memory model behind the policy contract.

    Its parameters are Parameters(evolved=Flax variables of the scorer, frozen={"mean": [freq], "variance": [freq]}).
    Where layers or heads have budgets of their own, evolved["budgets"] holds the logarithms of their shares.
    """

    config: MemoryConfig = field(default_factory=MemoryConfig)
    name: str = "namm"
    position_rule: str = "original"

    @property
    def needs(self) -> frozenset[str]:
        known = blocks(self.config.spectrum)
        return frozenset().union(*(known[name].needs for name in self.config.features))

    @property
    def remembers(self) -> bool:
        """Whether statistics of all tokens read are carried."""
        return self.config.relative == "read" and bool(CONTENT & set(self.config.features))

    @property
    def layered(self) -> bool:
        return bool(self.config.scorer.sets)

    def check_size(self, layers: int, heads: int) -> None:
        """ValueError for a host of other sizes than the memory has parameters for."""
        sets = self.config.scorer.sets
        if sets != (layers, heads)[: len(sets)]:
            raise ValueError(
                f"{self.name} has parameters for {sets} (layers, KV heads); the host has {(layers, heads)}. "
                "Choose a memory with one set of parameters for all of them, or scorer.sets of the host's size"
            )

    def init(self, shape: CacheShape, key: Array) -> PolicyState:
        del key
        slots: dict[str, Array] = {}
        if WATCHING & set(self.config.features):
            slots |= spectrum_slots(self.config.spectrum, shape, "spectrum" in self.config.features)
        if "surprisal" in self.config.features:
            slots["surprisal"] = jnp.zeros((shape.heads, shape.slots), jnp.float32)
        return PolicyState(slots, nothing_read(shape.heads, shape.dim) if self.remembers else {})

    def observe(self, state: PolicyState, observation: Observation) -> PolicyState:
        if not WATCHING & set(self.config.features):
            return state
        seen = observe_spectrum(self.config.spectrum, state.slots, observation)
        return state._replace(slots={**state.slots, **seen})

    def score(
        self, params: Parameters, state: PolicyState, cache: SlotCache
    ) -> tuple[Float[Array, "head slot"], PolicyState]:
        features, state = self.features(params.frozen, state, cache)
        return self.apply({"params": params.evolved["params"]}, features, cache.valid), state

    def features(
        self, statistics: dict[str, Array], state: PolicyState, cache: SlotCache
    ) -> tuple[Float[Array, "head slot feature"], PolicyState]:
        """The scorer's input: the blocks of the configuration side by side, the spectrum normalised."""
        known = blocks(self.config.spectrum)
        slots, running = dict(state.slots), state.running
        if self.remembers:
            slots["content"], slots["levels"], running = content_of_read(cache, running)
        elif CONTENT & set(self.config.features):
            slots["content"], slots["levels"] = content(cache)
        columns = {name: known[name].compute(slots, cache) for name in self.config.features}
        if "spectrum" in columns:
            deviation = jnp.maximum(jnp.sqrt(statistics["variance"]), DEVIATION_FLOOR)
            columns["spectrum"] = (columns["spectrum"] - statistics["mean"]) / deviation
        features = jnp.concatenate([columns[name] for name in self.config.features], axis=-1).astype(jnp.float32)
        return features, state._replace(running=running)

    def apply(
        self, scorer: Any, features: Float[Array, "head slot feature"], valid: Bool[Array, "head slot"]
    ) -> Float[Array, "head slot"]:
        """The scorer over every head by itself, with the parameters of this layer."""
        module = make_scorer(self.config.scorer.kind, self.config.scorer.hidden)
        heads = (0 if len(self.config.scorer.sets) == 2 else None, 0, 0)
        return jax.vmap(lambda p, x, v: cast(Array, module.apply(p, x, v)), in_axes=heads)(scorer, features, valid)

    def initial_scorer(self) -> dict:
        """Zero weights and the configured output bias: every slot scores `scorer.start`."""
        module = make_scorer(self.config.scorer.kind, self.config.scorer.hidden)
        features, valid = jnp.zeros((1, self.config.width)), jnp.ones((1,), bool)
        variables = module.init(jax.random.key(0), features, valid)
        params = {**variables["params"], "score": {**variables["params"]["score"]}}
        params["score"]["bias"] = jnp.full((1,), self.config.scorer.start, jnp.float32)
        sets = self.config.scorer.sets
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (*sets, *x.shape)), {"params": params})


def initial_parameters(policy: NammPolicy) -> Parameters:
    """Where a search starts when nothing is known."""
    shares = {"budgets": jnp.zeros(policy.config.budgets)} if policy.config.budgets else {}
    return Parameters(policy.initial_scorer() | shares, identity_statistics(policy.config.spectrum))


def identity_statistics(spectrum: SpectrumConfig) -> dict[str, Array]:
    """Statistics that leave the spectrum as it is, for memories that were never calibrated."""
    return {"mean": jnp.zeros(spectrum.bins, jnp.float32), "variance": jnp.ones(spectrum.bins, jnp.float32)}
