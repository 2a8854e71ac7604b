"""SirLLM's DailyDialog (arXiv 2405.12528; corpus arXiv 1710.03957): choose the reply to an utterance among four.

Data comes from SirLLM's `dailydialog.jsonl` in the data folder, else the corpus from the hub; of that, wrong
replies are drawn from the validation part, as in the paper. Differences: the paper empties the cache at every dialogue,
here the dialogues before it stand in the prompt up to its length, all answered right (the paper leaves the model's own
answers there); whole dialogues are cut 80/10/10 into splits by the hash of their number.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from experiments.tasks.choices import LETTERS, Choice, read_choices
from experiments.tasks.corpora import OPTION, data_file
from experiments.tasks.fitting import largest
from experiments.tasks.rows import from_hub
from experiments.tasks.sample import Sample, Split, generator, held_in

FILE = "dailydialog.jsonl"
HUB = "OpenRL/daily_dialog"
OPTIONS = 4
TURN_TOKENS = 16  # a turn has more tokens than this in any tokenizer
OPENING = "These are dialogues. After each utterance the best of four replies is chosen.\n\n"


@dataclass(frozen=True)
class Dialogue:
    """One reply to choose, after the earlier turns of its dialogue and as many earlier dialogues as fit."""

    name: str = "dialogue"

    def make(self, tokenizer: PreTrainedTokenizerBase, length: int, split: Split, index: int) -> Sample:
        """Turn `index` of `split`, from the start again after the last; shorter than `length` where data runs out.

        ValueError if the split is empty or `length` cannot hold the turn.
        """
        generator(self.name, length, split, index)  # checks split and index
        turns = [turn for turn in load(data_file(FILE)) if held_in(_dialogue(turn), split)]
        if not turns:
            raise ValueError(f"{self.name}: no dialogue belongs to the split {split}; give a file with more dialogues")
        place = index % len(turns)
        asked, after = turns[place], turns[place + 1 :]
        # What follows in its own dialogue would give the reply away.
        earlier = [turn for turn in after if _dialogue(turn) != _dialogue(asked)] + turns[:place]

        def build(size: int) -> Sample:
            shown = earlier[len(earlier) - size :]
            told = [f"{_begin(turn)}{turn.ask()}\nAnswer: {turn.letter}\n\n" for turn in shown]
            return Sample(
                task=self.name,
                context=OPENING + "".join(told) + _begin(asked),
                question=asked.ask(),
                prefix="Answer:",
                answers=(asked.letter,),
                target=asked.letter,
                metric="choice",
                max_new_tokens=4,
                classes=tuple(LETTERS[:OPTIONS]),
            )

        return largest(tokenizer, length, build, 0, min(len(earlier), length // TURN_TOKENS))


@lru_cache(maxsize=2)
def load(path: Path | None) -> tuple[Choice, ...]:
    """All turns in order, from a file or from the hub; their ids are `dialogue_turn`."""
    turns = _from_hub() if path is None else read_choices(path, OPTIONS)
    if wrong := [turn.id for turn in turns if not re.fullmatch(r"\d+_\d+", turn.id)]:
        raise ValueError(f"{path}: key 'id': got {wrong[0]!r}, expected the form dialogue_turn, such as '12_3'")
    return turns


def _dialogue(turn: Choice) -> str:
    return turn.id.split("_")[0]


def _begin(turn: Choice) -> str:
    return "A new dialogue begins.\n\n" if turn.id.split("_")[1] == "1" else ""


def _from_hub() -> tuple[Choice, ...]:
    here = f"or put {FILE} (from SirLLM's repository) into the folder of {OPTION}"

    def read(datasets: Any) -> list[Iterable[list[str]]]:
        return [datasets.load_dataset(HUB, split=part)["dialog"] for part in ("test", "validation")]

    return posed(*from_hub("DailyDialog", "DailyDialog", HUB, here, read))


def posed(dialogues: Iterable[list[str]], others: Iterable[list[str]]) -> tuple[Choice, ...]:
    """Every second utterance as the reply to the one before it, among three of other dialogues."""
    pool = sorted({utterance.strip() for dialogue in others for utterance in dialogue})
    rng, turns = np.random.default_rng(0), []
    for number, dialogue in enumerate(dialogues):
        for turn in range(1, len(dialogue), 2):
            right, letter = dialogue[turn].strip(), int(rng.integers(OPTIONS))
            drawn = [pool[i] for i in rng.choice(len(pool), OPTIONS, replace=False)]
            options = [one for one in drawn if one != right][: OPTIONS - 1]
            options.insert(letter, right)
            turns.append(Choice(f"{number}_{turn}", dialogue[turn - 1].strip(), tuple(options), LETTERS[letter]))
    return tuple(turns)
