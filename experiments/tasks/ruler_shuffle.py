"""The order of what RULER shuffles: drawn for every sample, or the one order that its release repeats.

The release shuffles the words of `cwe` and `fwe` and the documents of the `qa` tasks by a generator that starts anew
from the run's seed, 42 by default, for every sample: two samples with equally many words have their answers at the
same places, which a policy that prefers places could exploit. Its needles are shuffled alike, but which of them is
asked is drawn for each sample, so that this makes no difference; variable tracking and haystacks have fresh places.
"""

import random
from typing import Literal

import numpy as np
from jaxtyping import Int

Shuffle = Literal["sample", "released"]
RELEASED_SEED = 42


def shuffled(count: int, shuffle: Shuffle, rng: np.random.Generator) -> Int[np.ndarray, " item"]:
    """Which of `count` items stands at each place. `rng` is the sample's own, which "released" has no use for."""
    if shuffle == "sample":
        return rng.permutation(count)
    items = list(range(count))
    random.Random(RELEASED_SEED).shuffle(items)  # the release's generator, not NumPy's
    return np.array(items, int)


def shuffle_name(name: str, shuffle: Shuffle) -> str:
    """The task's name: with the suffix `:released` where the order is the release's."""
    return name if shuffle == "sample" else f"{name}:released"
