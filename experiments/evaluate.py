"""Memories and policies on the same prompts, batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.answers import Answered, Answering
from experiments.summary import WHOLE, Summary, Verdict, summarise
from experiments.tasks import Split, metrics
from experiments.tasks.encoding import Encoded
from experiments.tasks.facts import facts, places
from experiments.trace import Trace, kept_bits, pack, pack_counts, token_texts


class Finished(NamedTuple):
    """Prompts that every entry has answered."""

    verdicts: list[Verdict]
    traces: list[Trace]


class Evaluator(Answering):
    """Judges the answers to prompts of its source."""

    def run(self, split: Split, prompts: int, progress: Callable[[int], None], trace: int) -> Finished:
        """Every entry on the first prompts of a split (see `batches`)."""
        whole = Finished([], [])
        for finished in self.batches(split, self.source.mix.order(prompts), trace):
            whole.verdicts.extend(finished.verdicts)
            whole.traces.extend(finished.traces)
            progress(len(finished.verdicts) // len(self.entries))
        return whole

    def batches(self, split: Split, indices: Sequence[int], trace: int) -> Iterator[Finished]:
        """Batch by batch: a verdict an entry and prompt, entry-major, and traces of the prompts below `trace`.

        Prompts longer than TRACED tokens, or answered by another engine, have no traces.
        """
        trace = trace if self.traces else 0
        for begin in range(0, len(indices), self.batch):
            part = indices[begin : begin + self.batch]
            prompts = [self.source.prompt(split, index) for index in part]
            filled = prompts + prompts[-1:] * (self.batch - len(part))  # one batch shape, one compilation
            limits = jnp.array([prompt.sample.max_new_tokens for prompt in filled])
            traced = [row for row, index in enumerate(part) if index < trace]
            kept: dict[int, dict[str, str]] = {row: {} for row in traced}
            over: dict[int, dict[str, str]] = {row: {} for row in traced}
            verdicts: list[Verdict] = []
            for answered in self.answer(self.source.arrays(filled), limits):
                verdicts += (found := self._verdicts(split, part, prompts, answered))
                if kept and answered.entry.budget != WHOLE:
                    origin = np.asarray(answered.places.origin)
                    for row, bits in kept.items():
                        tokens, name = len(prompts[row].context), found[row].entry
                        bits[name] = pack(kept_bits(origin[:, row], tokens))
                        if self.use.mode == "streaming":
                            over[row][name] = _over_time(answered, row, tokens)
            traces = [self._trace(part[row], prompts[row], kept[row], over[row]) for row in traced]
            yield Finished(verdicts, traces)

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

    def _trace(self, index: int, prompt: Encoded, kept: dict[str, str], over: dict[str, str]) -> Trace:
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
            kept=kept,
            over=over,
        )

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
