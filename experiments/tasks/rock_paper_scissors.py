"""SirLLM's rock, paper, scissors (arXiv 2405.12528) against players who prefer one move.

Which move a player prefers shows only in the earlier rounds. The paper runs one game without end; here each prompt is
a new game of as many rounds as the length allows, so prompts and splits share none. The score is the share of wins.
Since one constant letter already wins half of the rounds, no win rate means anything without `reference_rates`.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from experiments.tasks.fitting import largest
from experiments.tasks.sample import Sample, Split, generator

Player = Literal["rock", "paper", "scissors"]
MOVES = ("R", "P", "S")  # each move loses to the next one, and the last one to the first
ROUND_TOKENS = 4  # a round has more tokens than this in any tokenizer

# How often each player makes each of MOVES: SirLLM, section 4.
HABITS: Mapping[Player, tuple[float, float, float]] = MappingProxyType(
    {"rock": (0.5, 0.3, 0.2), "paper": (0.2, 0.5, 0.3), "scissors": (0.3, 0.2, 0.5)}
)


def beats(move: str) -> str:
    """The move that wins against this one."""
    return MOVES[(MOVES.index(move) + 1) % len(MOVES)]


@dataclass(frozen=True)
class RockPaperScissors:
    """The rounds of one player so far, and the letter to answer the next one with."""

    player: Player

    @property
    def name(self) -> str:
        """`rps/rock`, `rps/paper` or `rps/scissors`."""
        return f"rps/{self.player}"

    def make(self, tokenizer: PreTrainedTokenizerBase, length: int, split: Split, index: int) -> Sample:
        """Sample `index` of `split`; ValueError if `length` cannot hold one round and the question."""
        rng = generator(self.name, length, split, index)
        following, *earlier = rng.choice(MOVES, max(2, length // ROUND_TOKENS), p=HABITS[self.player])

        def build(size: int) -> Sample:
            rounds = "\n".join(f"Round {number}: I chose {move}" for number, move in enumerate(earlier[:size], 1))
            return Sample(
                task=self.name,
                context="We play rock (R), paper (P), scissors (S): R beats S, S beats P, P beats R. These are my "
                f"moves so far, learn how I play.\n{rounds}\n",
                question=f"I have chosen my move of round {size + 1}. Which letter beats it, R, P or S?",
                prefix="I choose",
                answers=(beats(following),),
                target=beats(following),
                metric="choice",
                max_new_tokens=4,
                classes=MOVES,
            )

        return largest(tokenizer, length, build, 1, len(earlier))


RPS = tuple(map(RockPaperScissors, HABITS))


def reference_rates(samples: Sequence[Sample]) -> dict[str, float]:
    """Win rates that need no language model, on the rounds of these samples.

    Each constant letter, a uniformly random one (expected rate), and what beats the move that the player has made most
    often so far (of equally frequent ones the one that was made first).
    """
    if not samples or any(not sample.task.startswith("rps/") for sample in samples):
        raise ValueError(f"samples: got {sorted({one.task for one in samples})}, expected samples of rps/ tasks")
    wins = [sample.answers[0] for sample in samples]
    counted = [beats(Counter(moves(sample)).most_common(1)[0][0]) for sample in samples]
    constant = {f"always {move}": float(np.mean([win == move for win in wins])) for move in MOVES}
    frequency = float(np.mean([guess == win for guess, win in zip(counted, wins, strict=True)]))
    return constant | {"uniform": 1 / len(MOVES), "frequency": frequency}


def moves(sample: Sample) -> list[str]:
    """The player's moves in the rounds that the context shows, in order."""
    return re.findall(r"^Round \d+: I chose ([RPS])$", sample.context, re.MULTILINE)
