"""Search strategies behind one init / ask / tell; the only file that imports evosax.

Fitness is maximised. Ties, failures and flat generations are handled here, the same way for every algorithm.
"""

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PyTree

from evolve.cma import CmaState, ask_cma, cma_constants, init_cma, tell_cma
from evolve.lmma import LmmaState, ask_lmma, init_lmma, lmma_constants, tell_lmma
from evolve.ranking import share_ties

Algorithm = Literal["sep-cma-es", "iso-cma-es", "cma-es", "lm-ma-es", "snes", "open-es", "pgpe"]
_GRADIENT_STEPS = ("open-es", "pgpe")


@dataclass(frozen=True)
class SearchConfig:
    """Which strategy searches, and from how wide a distribution.

    The default, separable CMA-ES, costs O(n). At thousands of parameters its scales hardly move, and snes (O(n) too)
    and the paper's full CMA-ES find a little more at equal evaluations (docs/findings.md); at tens (a linear scorer) it
    learns a scale per parameter within some generations.
    sigma 0.065 and 32 members are the paper's (arXiv 2410.13166).
    """

    algorithm: Algorithm = "sep-cma-es"
    population: int = 32
    sigma: float = 0.065
    learning_rate: float | None = None  # of Adam, in open-es and pgpe only; None: 0.01

    def __post_init__(self):
        if self.algorithm not in get_args(Algorithm):
            raise ValueError(f"algorithm: got {self.algorithm!r}, expected one of {', '.join(get_args(Algorithm))}")
        if self.population < 4:
            raise ValueError(f"population: got {self.population}, expected at least 4")
        if self.algorithm in _GRADIENT_STEPS and self.population % 2:
            raise ValueError(
                f"population: got {self.population}, but {self.algorithm} draws mirrored pairs; use an even number"
            )
        if not 0 < self.sigma < float("inf"):
            raise ValueError(f"sigma: got {self.sigma}, expected a positive number")
        if self.learning_rate is not None and self.algorithm not in _GRADIENT_STEPS:
            raise ValueError(f"learning_rate: {self.algorithm} has none; leave it out or use open-es or pgpe")
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate: got {self.learning_rate}, expected a positive number")


class Strategy(ABC):
    """A search distribution over parameter pytrees shaped like `like`. State in, state out."""

    def __init__(self, config: SearchConfig, like: PyTree):
        flat, self._unravel = ravel_pytree(like)
        if flat.size < 2:
            raise ValueError(f"parameters: got {flat.size} numbers, expected at least 2 to search over")
        self.config = config
        self.dim = flat.size

    def init(self, key: Key[Array, ""], mean: PyTree) -> PyTree:
        """The state of a search that starts at `mean`."""
        flat = ravel_pytree(mean)[0]
        if flat.size != self.dim:
            raise ValueError(f"mean: got {flat.size} numbers, expected {self.dim} as in the example parameters")
        if not bool(jnp.all(jnp.isfinite(flat))):
            raise ValueError("mean: got NaN or infinity in the starting parameters, expected finite numbers")
        return self._init(key, mean)

    def tell(self, population: PyTree, fitness: Any, state: PyTree) -> tuple[PyTree, dict[str, float]]:
        """Move towards the members of higher `fitness` [pop]; returns the state and scalar metrics.

        A member whose fitness is not finite ranks last. A generation that says nothing, because every member failed
        or all are tied, leaves the state unchanged (with a warning where all failed).
        """
        fitness = np.asarray(fitness, np.float64)
        if fitness.shape != (self.config.population,):
            raise ValueError(f"fitness: got shape {fitness.shape}, expected ({self.config.population},)")
        finite = fitness[np.isfinite(fitness)]
        if finite.size == 0:
            warnings.warn("every member of this generation failed; the search state is unchanged", stacklevel=2)
        elif finite.size < fitness.size or np.ptp(finite) > 0:
            state = self._tell(population, fitness, state)
        metrics = {
            "best_fitness": float(finite.max()) if finite.size else float("nan"),
            "mean_fitness": float(finite.mean()) if finite.size else float("nan"),
            "tied": 1 - (np.unique(finite).size / finite.size if finite.size else 0.0),
            "failed": 1 - finite.size / fitness.size,
            "sigma": float(np.mean(np.asarray(self._sigma(state)))),
        }
        return state, metrics

    @abstractmethod
    def ask(self, key: Key[Array, ""], state: PyTree) -> tuple[PyTree, PyTree]:
        """Draw a population: a pytree with a leading pop axis, and the state to pass to `tell`."""

    @abstractmethod
    def mean(self, state: PyTree) -> PyTree:
        """The mean of the distribution: what is evaluated and shipped."""

    @abstractmethod
    def _init(self, key: Array, mean: PyTree) -> PyTree: ...

    @abstractmethod
    def _tell(self, population: PyTree, fitness: np.ndarray, state: PyTree) -> PyTree: ...

    @abstractmethod
    def _sigma(self, state: PyTree) -> Any: ...


def make_strategy(config: SearchConfig, like: PyTree) -> Strategy:
    """The strategy that `config` names, for parameters shaped like `like`."""
    hosted = {"cma-es": FullCma, "lm-ma-es": LimitedMemory}
    return hosted.get(config.algorithm, EvosaxStrategy)(config, like)


class _HostStrategy(Strategy):
    """A strategy in float64 on the host, on flat vectors."""

    def __init__(self, config: SearchConfig, like: PyTree):
        super().__init__(config, like)
        self._unravel_members = jax.jit(jax.vmap(self._unravel))
        self._ravel_members = jax.jit(jax.vmap(lambda member: ravel_pytree(member)[0]))

    def ask(self, key: Key[Array, ""], state: PyTree) -> tuple[PyTree, PyTree]:
        return self._unravel_members(self._draw(key, state).astype(np.float32)), state

    def mean(self, state: PyTree) -> PyTree:
        return self._unravel(jnp.asarray(state.mean, jnp.float32))

    def _init(self, key: Array, mean: PyTree) -> PyTree:
        return self._start(np.asarray(ravel_pytree(mean)[0], np.float64))

    def _tell(self, population: PyTree, fitness: np.ndarray, state: PyTree) -> PyTree:
        # The members as they were evaluated (rounded to float32), not as they were drawn.
        return self._move(np.asarray(self._ravel_members(population), np.float64), fitness, state)

    def _sigma(self, state: PyTree) -> Any:
        return state.sigma

    @abstractmethod
    def _start(self, mean: Float[np.ndarray, " dim"]) -> PyTree: ...

    @abstractmethod
    def _draw(self, key: Array, state: PyTree) -> Float[np.ndarray, "pop dim"]: ...

    @abstractmethod
    def _move(self, members: Float[np.ndarray, "pop dim"], fitness: np.ndarray, state: PyTree) -> PyTree: ...


class FullCma(_HostStrategy):
    """Full-covariance CMA-ES (`evolve.cma`): 16 n^2 bytes of state."""

    def __init__(self, config: SearchConfig, like: PyTree):
        super().__init__(config, like)
        self._constants = cma_constants(self.dim, config.population)

    def _start(self, mean: np.ndarray) -> CmaState:
        return init_cma(mean, self.config.sigma)

    def _draw(self, key: Array, state: CmaState) -> np.ndarray:
        return ask_cma(key, state, self.config.population)

    def _move(self, members: np.ndarray, fitness: np.ndarray, state: CmaState) -> CmaState:
        return tell_cma(members, fitness, state, self._constants)


class LimitedMemory(_HostStrategy):
    """LM-MA-ES (`evolve.lmma`): a low-rank covariance."""

    def __init__(self, config: SearchConfig, like: PyTree):
        super().__init__(config, like)
        self._constants = lmma_constants(self.dim, config.population)

    def _start(self, mean: np.ndarray) -> LmmaState:
        return init_lmma(mean, self.config.sigma, self._constants)

    def _draw(self, key: Array, state: LmmaState) -> np.ndarray:
        return ask_lmma(key, state, self.config.population, self._constants)

    def _move(self, members: np.ndarray, fitness: np.ndarray, state: LmmaState) -> LmmaState:
        return tell_lmma(members, fitness, state, self._constants)


class EvosaxStrategy(Strategy):
    """An evosax algorithm, jitted on the default device; told rank weights instead of raw fitness."""

    def __init__(self, config: SearchConfig, like: PyTree):
        super().__init__(config, like)
        self._algorithm, self._params, self._rank_weights = _build(config, like)
        self._ask = jax.jit(lambda key, state: self._algorithm.ask(key, state, self._params))
        self._update = jax.jit(self._evosax_tell)

    def ask(self, key: Key[Array, ""], state: PyTree) -> tuple[PyTree, PyTree]:
        return self._ask(key, state)

    def mean(self, state: PyTree) -> PyTree:
        return self._algorithm.get_mean(state)

    def _init(self, key: Array, mean: PyTree) -> PyTree:
        return _strongly_typed(self._algorithm.init(key, mean, self._params))

    def _tell(self, population: PyTree, fitness: np.ndarray, state: PyTree) -> PyTree:
        weights = share_ties(fitness, self._rank_weights)
        mu_eff = 1 / np.sum(np.square(np.maximum(weights, 0)))  # of the shared weights: sigma is unbiased under ties
        return self._update(population, weights.astype(np.float32), np.float32(mu_eff), state)

    def _evosax_tell(self, population: PyTree, weights: Float[Array, " pop"], mu_eff: Array, state: PyTree) -> PyTree:
        params = self._params.replace(mu_eff=mu_eff) if hasattr(self._params, "mu_eff") else self._params
        unused_key = jax.random.key(0)  # none of these algorithms draws anything when told
        return _strongly_typed(self._algorithm.tell(unused_key, population, weights, state, params)[0])

    def _sigma(self, state: PyTree) -> Any:
        return state.std


def _build(config: SearchConfig, like: PyTree) -> tuple[Any, Any, np.ndarray]:
    """The evosax algorithm, its parameters, and the rank weights that it is told, best rank first."""
    # Importing evosax starts JAX's backends, which would make it too late for `mesh.start_processes`.
    from evosax.algorithms import PGPE, SNES, Open_ES, Sep_CMA_ES

    options: dict[str, Any] = {
        "population_size": config.population,
        "solution": like,
        "fitness_shaping_fn": _told_weights,
        "metrics_fn": lambda *_: {},
    }
    centered = np.linspace(-0.5, 0.5, config.population)  # evosax minimises, so the best is negative
    optimizer = optax.adam(config.learning_rate or 0.01)
    if config.algorithm == "open-es":
        es = Open_ES(**options, optimizer=optimizer, std_schedule=optax.constant_schedule(config.sigma))
        return es, es.default_params, centered
    if config.algorithm == "pgpe":
        es = PGPE(**options, optimizer=optimizer)
        return es, es.default_params.replace(std_init=config.sigma), centered
    es = SNES(**options) if config.algorithm == "snes" else Sep_CMA_ES(**options)
    params = es.default_params.replace(std_init=jnp.asarray(config.sigma))
    if config.algorithm == "snes":
        return es, params, np.asarray(params.weights, np.float64)
    # A diagonal has fewer numbers to learn, so it may learn faster (Ros & Hansen 2008, section 3); evosax does not.
    # Without any learning it stays the identity, and what remains is cumulative step-size adaptation.
    faster = (es.num_dims + 2) / 3 if config.algorithm == "sep-cma-es" else 0.0
    c_1 = jnp.minimum(params.c_1 * faster, 1.0)
    params = params.replace(c_1=c_1, c_mu=jnp.minimum(params.c_mu * faster, 1 - c_1))
    return es, params, np.maximum(np.asarray(params.weights, np.float64), 0)


def _told_weights(population: Any, fitness: Any, state: Any, params: Any) -> Any:
    return fitness


def _strongly_typed(state: PyTree) -> PyTree:
    # evosax puts Python numbers into its states; as weakly typed arrays they would compile everything twice.
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), state)
