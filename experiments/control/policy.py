"""What plays while play is recorded."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from jaxtyping import Float


class Policy(ABC):
    """What plays: actions from states, with noise where that is asked for."""

    space: spaces.Box

    @abstractmethod
    def act(self, state: Float[np.ndarray, " state"]) -> Float[np.ndarray, " action"]:
        """The action that it means, which may lie outside the space."""

    def player(self, spread: float) -> Callable[[np.random.Generator], Callable[[Any], Any]]:
        """Play with Gaussian noise on the actions; its deviation is drawn up to `spread`, episode by episode."""

        def start(rng: np.random.Generator) -> Callable[[Any], Any]:
            own = spread * rng.random()
            return lambda state: self.clip(self.act(state) + own * rng.normal(size=self.space.shape))

        return start

    def clip(self, action: Float[np.ndarray, " action"]) -> Float[np.ndarray, " action"]:
        return np.clip(action, self.space.low, self.space.high).astype(np.float32)
