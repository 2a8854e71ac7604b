"""Greedy answers to questions behind compressed contexts, as `hosts.rollout` gives them."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from hosts.pytorch.attach import attach, settle
from namm.artefact import Memory

_NEVER = 2**30  # tokens between updates of a memory that drops nothing


class Answers(NamedTuple):
    """Generated ids (-1 after the end), and the tokens that every layer and head kept of the contexts."""

    tokens: Int[Tensor, "batch step"]
    held: Int[Tensor, "layer batch head"]


class Rows(NamedTuple):
    """Right-padded token ids and how many of each row are real."""

    tokens: Int[Tensor, "batch column"]
    lengths: Int[Tensor, " batch"]


@torch.inference_mode()
def answer(
    model: Any,
    memory: Memory,
    budget: tuple[int, ...] | None,
    context: Rows,
    question: Rows,
    limits: Int[Tensor, " batch"],
    eos: tuple[int, ...],
) -> Answers:
    """Read contexts under a memory, update once more at their end, then read questions and decode greedily.

    budget: tokens a head of every row, None for "keep-all". A row ends at its limit (tokens) or an end-of-sequence id;
    once half of the rows have, they are let go. Updates go on while it answers. `hosts.decoding.generate` reads a
    question in one piece even where it is longer than the memory's interval; here an update falls due within it.
    """
    with attach(model, memory, budget, memory.interval if budget is not None else _NEVER):
        cache = read(model, context)
        held = torch.stack([layer.held().cpu() for layer in cache.memory_layers])
        return Answers(decode(model, cache, question, limits, eos), held)


@torch.inference_mode()
def read(model: Any, context: Rows) -> Any:
    """The cache behind contexts, one more update at their end, under the memory that is attached."""
    cache = _read(model, context, None).past_key_values
    settle(model)
    return cache


@torch.inference_mode()
def decode(
    model: Any, cache: Any, question: Rows, limits: Int[Tensor, " batch"], eos: tuple[int, ...]
) -> Int[Tensor, "batch step"]:
    """Greedy answers behind a cache from `read`, which is used up; the rest as in `answer`."""
    logits = _read(model, question, cache).logits[:, -1].cpu()
    ends = torch.tensor(eos, dtype=torch.long)
    tokens = torch.full((len(limits), int(limits.max())), -1)
    left = torch.arange(len(limits))  # rows that are decoded
    done = torch.zeros(len(limits), dtype=torch.bool)
    for step in range(tokens.shape[1]):
        chosen = logits.argmax(-1)
        done |= torch.isin(chosen, ends) | (step >= limits[left])
        tokens[left, step] = chosen.masked_fill(done, -1)
        if bool(done.all()):
            break
        if 2 * int(done.sum()) >= len(done):  # what is copied is at most what stood there
            stay = (~done).nonzero()[:, 0]
            cache.batch_select_indices(stay)
            chosen, left, done = chosen[stay], left[stay], done[stay]
        logits = model(chosen[:, None].to(model.device), past_key_values=cache, use_cache=True).logits[:, -1].cpu()
    return tokens


def _read(model: Any, rows: Rows, cache: Any) -> Any:
    """One call, its padding moved to the left: the last column is then every row's last token."""
    width = rows.tokens.shape[1]
    column = torch.arange(width) - (width - rows.lengths[:, None])
    ids, mask = rows.tokens.gather(1, column.clamp(min=0)), (column >= 0).long()
    ids, mask = ids.to(model.device), mask.to(model.device)
    return model(ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1)
