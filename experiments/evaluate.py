"""Memories and policies on the same prompts, batch by batch and entry by entry."""

from collections.abc import Callable, Collection, Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.answers import Answered, Answering
from experiments.summary import WHOLE, Summary, Verdict, summarise
from experiments.tasks import Split, metrics
from experiments.tasks.encoding import Encoded
from experiments.tasks.facts import facts, places
from experiments.trace import Trace, kept_bits, pack, pack_counts, together, token_texts


class Finished(NamedTuple):
    """What entries have answered."""

    verdicts: list[Verdict]
    traces: list[Trace]


class Evaluator(Answering):
    """Judges the answers to prompts of its source."""

    def only(self, names: Collection[str]) -> "Evaluator":
        """The same with some of the entries alone."""
        part = copy(self)
        part.entries = [entry for entry in self.entries if entry.name in names]
        return part

    def run(self, split: Split, prompts: int, progress: Callable[[int], None], trace: int) -> Finished:
        """Every entry on the first prompts of a split (see `judge`); progress is told of prompts that all answered."""
        whole = Finished([], [])
        for part in self.parts(self.source.mix.order(prompts)):
            for finished in self.judge(split, part, trace):
                whole.verdicts.extend(finished.verdicts)
                whole.traces.extend(finished.traces)
            progress(len(part))
        return whole._replace(traces=together(whole.traces))

    def parts(self, indices: Sequence[int]) -> Iterator[Sequence[int]]:
        """Prompts that are answered together."""
        for begin in range(0, len(indices), self.batch):
            yield indices[begin : begin + self.batch]

    def judge(self, split: Split, part: Sequence[int], trace: int) -> Iterator[Finished]:
        """Entry by entry: a verdict a prompt of the part, and its own share of the traces of prompts below `trace`.

        Prompts longer than TRACED tokens, or answered by another engine, have no traces.
        """
        prompts = [self.source.prompt(split, index) for index in part]
        filled = prompts + prompts[-1:] * (self.batch - len(part))  # one batch shape, one compilation
        limits = jnp.array([prompt.sample.max_new_tokens for prompt in filled])
        traced = [row for row, index in enumerate(part) if self.traces and index < trace]
        blank = {row: self._trace(part[row], prompts[row]) for row in traced}
        for answered in self.answer(self.source.arrays(filled), limits):
            verdicts = self._verdicts(split, part, prompts, answered)
            yield Finished(verdicts, [self._kept(blank[row], verdicts[row], answered, row) for row in traced])

    def _verdicts(
        self, split: Split, part: Sequence[int], prompts: list[Encoded], answered: Answered
    ) -> list[Verdict]:
        tokens, held = answered.tokens, np.asarray(answered.places.held)
        verdicts = []
        for row, (index, prompt) in enumerate(zip(part, prompts, strict=False)):
            ids, sample = tokens[row], prompt.sample
            text = str(self.source.host.tokenizer.decode(ids[ids >= 0].tolist(), skip_special_tokens=True))
            verdict = Verdict(
                memory=answered.entry.memory.name,
                budget=answered.entry.budget,
                mode=self.use.mode,
                task=sample.task,
                split=split,
                length=self.source.mix.length,
                index=index,
                question="hidden" if sample.question.strip() else "shown",
                depth=answer_depth(prompt),
                score=float(metrics.score(text, sample)),
                kept=float(held[:, row].mean() / len(prompt.context)),
                tokens=len(prompt.context),
                seconds=answered.seconds / len(part),
                prediction=text,
                answers=sample.answers,
                held=tuple(map(tuple, held[:, row].tolist())),
            )
            verdicts.append(verdict)
        return verdicts

    def _trace(self, index: int, prompt: Encoded) -> Trace:
        """Of no entry yet."""
        host, sample = self.source.host, prompt.sample
        return Trace(
            task=sample.task,
            mode=self.use.mode,
            length=self.source.mix.length,
            index=index,
            tokens=token_texts(host.tokenizer, prompt.context.tolist()),
            question=str(host.tokenizer.decode(prompt.question.tolist())),
            answers=sample.answers,
            facts=facts(sample),
            shape=(host.spec.layers, host.spec.kv_heads),
            kept={},
            over={},
        )

    def _kept(self, trace: Trace, verdict: Verdict, answered: Answered, row: int) -> Trace:
        """With what an entry kept; the full cache keeps everything."""
        if answered.entry.budget == WHOLE:
            return trace
        bits = pack(kept_bits(np.asarray(answered.places.origin)[:, row], verdict.tokens))
        streaming = self.use.mode == "streaming"
        over = {verdict.entry: _over_time(answered, row, verdict.tokens)} if streaming else {}
        return replace(trace, kept={verdict.entry: bits}, over=over)

    def summary(self, verdicts: Sequence[Verdict], reference: str) -> list[Summary]:
        """One row an entry, in the given order; differences are paired by prompt (see `Summary`)."""
        return summarise(verdicts, self.bytes, reference)


def _over_time(answered: Answered, row: int, tokens: int) -> str:
    """Tokens read and held after every update of a context (see `pack_counts`)."""
    interval = answered.entry.memory.interval
    read = np.minimum(interval * np.arange(1, -(-tokens // interval) + 1), tokens)
    before, last = (np.asarray(part[:, row]) for part in (answered.places.before, answered.places.held))
    return pack_counts(read, np.concatenate([before[..., : len(read) - 1], last[..., None]], axis=2))


def answer_depth(prompt: Encoded) -> float | None:
    """Where in the context its only answer begins (0 to 1); None for several answers, a label or an absent one."""
    context, answers = prompt.sample.context, facts(prompt.sample)
    place = next(places(context, answers[0]), None) if len(answers) == 1 else None
    return None if place is None else place / len(context)
