"""Tasks of `namm evaluate` as `namm transfer` plays them: a text is read under a memory, then comes the question.

What is of interest are hosts that a memory was not evolved on; the prompts are those of `namm evaluate`.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.played import Played, stayed
from experiments.prompts import PromptSource, TaskMix
from experiments.tasks import metrics
from experiments.torch_engine import TorchEngine, rows, tensor
from experiments.trace import token_texts
from hosts.pytorch.answer import decode, read


class Reader:
    """A text model and the prompts of every task that it is asked."""

    def __init__(self, engine: TorchEngine):
        self.engine = engine
        self.sources: dict[TaskMix, PromptSource] = {}

    def source(self, mix: TaskMix) -> PromptSource:
        if mix not in self.sources:
            self.sources[mix] = PromptSource(self.engine.host, mix)
        return self.sources[mix]


class TextTransfer:
    """Held-out prompts of a task of `namm evaluate` for a text model, `text:HOST:TASK:LENGTH`; a step is a token.

    A seed is a prompt's number. The memory reads the context, updates once more at its end, and meets the question
    after that. The length is that of context, question and answer together; budgets are shares of it.
    """

    controls, unit, step, seeds = (), "prompts", "token", None

    def __init__(self, name: str):
        parts = name.split(":")
        if len(parts) < 4 or not parts[-1].isdecimal():
            raise ValueError(f"unknown text task {name!r}; expected text:HOST:TASK:LENGTH, as text:pocket:passkey:256")
        self.name, self.host, self.tokens = name, parts[1], int(parts[-1])
        self.prompts = (":".join(parts[2:-1]),)
        self.mix = TaskMix(self.prompts, self.tokens)

    def load(self) -> Reader:
        return Reader(TorchEngine(self.host, "float32"))

    def model(self, host: Reader) -> Any:
        """ValueError where the host has fewer positions."""
        host.source(self.mix)
        return host.engine.model

    def play(self, host: Reader, seeds: Sequence[int], control: str | None) -> list[Played]:
        begin, source, model = time.perf_counter(), host.source(self.mix), host.engine.model
        prompts = [source.prompt("test", seed) for seed in seeds]
        context, question = rows(source.arrays(prompts))
        cache = read(model, context)
        found = [stayed(cache, row, len(prompt.context)) for row, prompt in enumerate(prompts)]
        limits = tensor(np.array([prompt.sample.max_new_tokens for prompt in prompts]))
        answers = decode(model, cache, question, limits, source.host.spec.eos_ids)
        texts = [source.host.tokenizer.decode(ids[ids >= 0].tolist(), skip_special_tokens=True) for ids in answers]
        seconds = (time.perf_counter() - begin) / len(seeds)
        return [
            Played(
                seed=seed,
                returned=float(metrics.score(text, prompt.sample)),
                steps=len(one.share),
                cue=None,
                cue_kept=None,
                seconds=seconds,
                **one.fields(),
            )
            for seed, prompt, text, one in zip(seeds, prompts, texts, found, strict=True)
        ]

    def score(self, returned: float) -> float:
        return returned

    def by_step(self, kept: Sequence[float]) -> Float[np.ndarray, " step"]:
        return np.array(kept)

    def images(self, host: Reader, seed: int) -> list[bytes]:
        return []

    def words(self, host: Reader, seed: int) -> tuple[str, ...]:
        source = host.source(self.mix)
        return token_texts(source.host.tokenizer, source.prompt("test", seed).context.tolist())
