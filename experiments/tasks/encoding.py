"""Samples to token ids: a context to compress, a question that sees what is left of it, and an answer.

The templated prompt is tokenised once, as a whole, and cut at token ends: a token that reaches past the end of the
context belongs to the question. Hence `context + question` is exactly what the whole prompt tokenises to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Int32
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from experiments.tasks.sample import Sample
from experiments.tasks.tokens import tokenise

Template = Literal["chat", "plain"]


@dataclass(frozen=True)
class Encoded:
    """Token ids of one sample; the prompt is `context` followed by `question`."""

    context: Int32[np.ndarray, " context"]
    question: Int32[np.ndarray, " question"]
    target: Int32[np.ndarray, " target"]
    sample: Sample


class Batch(NamedTuple):
    """Right-padded ids of several samples and their lengths; NumPy arrays from `collate`, JAX arrays on a device."""

    context: Int32[Array, "batch context"]
    context_length: Int32[Array, " batch"]
    question: Int32[Array, "batch question"]
    question_length: Int32[Array, " batch"]
    target: Int32[Array, "batch target"]
    target_length: Int32[Array, " batch"]


def best_template(tokenizer: PreTrainedTokenizerBase) -> Template:
    """`chat` where the tokenizer has a chat template, else `plain`."""
    return "chat" if tokenizer.chat_template else "plain"


def _applied(template: Template, sample: Sample) -> Template:
    return template if sample.chat else "plain"


def render(tokenizer: PreTrainedTokenizerBase, sample: Sample, template: Template) -> tuple[str, int]:
    """The prompt as one string, and where its context ends.

    chat: one user turn of context and question, the assistant header, the prefix. plain: context, question and, on a
    line of its own, the prefix; so is a sample with `chat=False` in any case. ValueError without a chat template, or
    with one that rewrites the user's text.
    """
    content = sample.context + sample.question
    if _applied(template, sample) == "plain":
        return content + f"\n{sample.prefix}" * bool(sample.prefix), len(sample.context)
    if not tokenizer.chat_template:
        raise ValueError("template: got 'chat', but this tokenizer has no chat template; use 'plain'")
    text = _templated(tokenizer, content)
    start = text.find(content.strip())
    if start < 0:
        raise ValueError("template: this tokenizer's chat template changes the user's text; use 'plain'")
    return text + sample.prefix, start - (len(content) - len(content.lstrip())) + len(sample.context)


def _templated(tokenizer: PreTrainedTokenizerBase, content: str) -> str:
    """One user turn. The system turn is empty where the template allows it: its default text is no part of a task."""
    turns = [{"role": "system", "content": ""}, {"role": "user", "content": content}]
    for messages in (turns, turns[1:]):
        try:
            # Some templates print today's date unless told one; a sample must not change overnight.
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, date_string="26 Jul 2024"
            )
        except TemplateError:
            continue
        assert isinstance(text, str)
        return text
    raise ValueError("template: this tokenizer's chat template takes no user turn; use 'plain'")


@lru_cache(maxsize=32)
def opening(tokenizer: PreTrainedTokenizerBase, template: Template) -> tuple[int, ...]:
    """Ids that stand before every prompt: the begin token where the tokenizer adds one (chat templates spell it)."""
    begin = tokenizer.bos_token_id
    adds = template == "plain" and tokenizer("a")["input_ids"][:1] == [begin]
    return (begin,) if adds and isinstance(begin, int) else ()


def prompt_length(tokenizer: PreTrainedTokenizerBase, sample: Sample) -> int:
    """Tokens of the prompt in the template that suits the tokenizer."""
    template = best_template(tokenizer)
    text, _ = render(tokenizer, sample, template)
    first = opening(tokenizer, _applied(template, sample))
    return len(first) + len(tokenise(tokenizer, text).ids)


def encode(tokenizer: PreTrainedTokenizerBase, sample: Sample, template: Template) -> Encoded:
    """Token ids of a sample, cut into context, question (never empty) and target (empty where the sample's is).

    The target follows a space unless the prompt ends or it begins in white space. It is tokenised with the prompt, so
    that greedy decoding of the right answer gives just these ids; only where a token spans both is it tokenised alone.
    """
    text, boundary = render(tokenizer, sample, template)
    spaced = not text or text[-1].isspace() or not sample.target or sample.target[0].isspace()
    answer = sample.target if spaced else f" {sample.target}"
    ids, offsets = tokenise(tokenizer, text + answer)
    end = int(np.searchsorted(offsets[:, 1], len(text), side="right"))
    prompt, target = ids[:end], ids[end:]
    if end < len(ids) and offsets[end, 0] < len(text):
        prompt, target = (tokenise(tokenizer, part).ids for part in (text, answer))
    # A question without tokens would leave nothing to decode from.
    cut = min(int(np.searchsorted(offsets[:end, 1], boundary, side="right")), len(prompt) - 1)
    first = np.array(opening(tokenizer, _applied(template, sample)), np.int32)
    return Encoded(np.concatenate([first, prompt[:cut]]), prompt[cut:], target, sample)


def collate(encoded: Sequence[Encoded]) -> Batch:
    """Right-pad with zeros to the longest of each part."""
    if not encoded:
        raise ValueError("encoded: got no samples, expected at least one")
    parts = [_pad([getattr(one, part) for one in encoded]) for part in ("context", "question", "target")]
    return Batch(*(array for part in parts for array in part))


def _pad(rows: list[np.ndarray]) -> tuple[Any, Any]:
    lengths = np.array([len(row) for row in rows], np.int32)
    out = np.zeros((len(rows), int(lengths.max())), np.int32)
    for row, ids in zip(out, rows, strict=True):
        row[: len(ids)] = ids
    return out, lengths
