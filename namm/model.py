"""The Neural Attention Memory Model as a policy: named features, frozen normalisation, an evolved scorer."""

from dataclasses import dataclass, field
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from namm.cache import CacheShape, SlotCache
from namm.config import MemoryConfig
from namm.contract import Observation, Parameters, PolicyState
from namm.features import SpectrumConfig, blocks, observe_spectrum, spectrum_slots
from namm.network import make_scorer

WATCHING = {"spectrum", "latest"}  # blocks of the attention that `observe_spectrum` takes in
DEVIATION_FLOOR = 1e-7  # of the normalised spectrum (arXiv 2410.13166, released configuration)


@dataclass(frozen=True)
class NammPolicy:
    """A memory model behind the policy contract.

    Its parameters are Parameters(evolved=Flax variables of the scorer, frozen={"mean": [freq], "variance": [freq]}).
    """

    config: MemoryConfig = field(default_factory=MemoryConfig)
    name: str = "namm"
    position_rule: str = "original"

    @property
    def needs(self) -> frozenset[str]:
        known = blocks(self.config.spectrum)
        return frozenset().union(*(known[name].needs for name in self.config.features))

    def init(self, shape: CacheShape, key: Array) -> PolicyState:
        del key
        slots: dict[str, Array] = {}
        if WATCHING & set(self.config.features):
            slots |= spectrum_slots(self.config.spectrum, shape, "spectrum" in self.config.features)
        if "surprisal" in self.config.features:
            slots["surprisal"] = jnp.zeros((shape.heads, shape.slots), jnp.float32)
        return PolicyState(slots, {})

    def observe(self, state: PolicyState, observation: Observation) -> PolicyState:
        if not WATCHING & set(self.config.features):
            return state
        seen = observe_spectrum(self.config.spectrum, state.slots, observation)
        return state._replace(slots={**state.slots, **seen})

    def score(
        self, params: Parameters, state: PolicyState, cache: SlotCache
    ) -> tuple[Float[Array, "head slot"], PolicyState]:
        return self.apply(params.evolved, self.features(params.frozen, state, cache), cache.valid), state

    def features(
        self, statistics: dict[str, Array], state: PolicyState, cache: SlotCache
    ) -> Float[Array, "head slot feature"]:
        """The scorer's input: the blocks of the configuration side by side, the spectrum normalised."""
        known = blocks(self.config.spectrum)
        columns = {name: known[name].compute(state.slots, cache) for name in self.config.features}
        if "spectrum" in columns:
            deviation = jnp.maximum(jnp.sqrt(statistics["variance"]), DEVIATION_FLOOR)
            columns["spectrum"] = (columns["spectrum"] - statistics["mean"]) / deviation
        return jnp.concatenate([columns[name] for name in self.config.features], axis=-1).astype(jnp.float32)

    def apply(
        self, scorer: Any, features: Float[Array, "head slot feature"], valid: Bool[Array, "head slot"]
    ) -> Float[Array, "head slot"]:
        """The scorer over every head by itself."""
        module = make_scorer(self.config.scorer.kind, self.config.scorer.hidden)
        return jax.vmap(lambda x, v: cast(Array, module.apply(scorer, x, v)))(features, valid)

    def initial_scorer(self) -> dict:
        """Zero weights and the configured output bias: every slot scores `scorer.start`."""
        module = make_scorer(self.config.scorer.kind, self.config.scorer.hidden)
        features, valid = jnp.zeros((1, self.config.width)), jnp.ones((1,), bool)
        variables = module.init(jax.random.key(0), features, valid)
        params = {**variables["params"], "score": {**variables["params"]["score"]}}
        params["score"]["bias"] = jnp.full((1,), self.config.scorer.start, jnp.float32)
        return {"params": params}


def initial_parameters(policy: NammPolicy) -> Parameters:
    """Where a search starts when nothing is known."""
    return Parameters(policy.initial_scorer(), identity_statistics(policy.config.spectrum))


def identity_statistics(spectrum: SpectrumConfig) -> dict[str, Array]:
    """Statistics that leave the spectrum as it is, for memories that were never calibrated."""
    return {"mean": jnp.zeros(spectrum.bins, jnp.float32), "variance": jnp.ones(spectrum.bins, jnp.float32)}
