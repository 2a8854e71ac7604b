"""A text to token ids and where they stand in it; a very long text part by part, in the memory that a part takes."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32
from transformers import PreTrainedTokenizerBase

PART = 2**18  # characters tokenised at once
OVERLAP = 2**11  # characters that a part shares with the next one
ALIKE = 32  # tokens in the middle of these that both must agree on


class Tokens(NamedTuple):
    """Ids without special tokens, and the first and last (exclusive) character of each."""

    ids: Int32[np.ndarray, " token"]
    spans: Int[np.ndarray, "token 2"]


def tokenise(tokenizer: PreTrainedTokenizerBase, text: str) -> Tokens:
    """The tokens of a text; parts that do not agree where they meet are given up, and the text is tokenised whole."""
    if len(text) <= PART:
        return _tokens(tokenizer, text, 0)
    parts, part, begin = [], _tokens(tokenizer, text[:PART], 0), 0
    while begin + PART < len(text):
        begin += PART - OVERLAP
        following = _tokens(tokenizer, text[begin : begin + PART], begin)
        seam = begin + OVERLAP // 2
        old, new = (int(np.searchsorted(found.spans[:, 0], seam)) for found in (part, following))
        ends, starts = _cut(part, old, old + ALIKE), _cut(following, new, new + ALIKE)
        if not all(map(np.array_equal, ends, starts)):
            return _tokens(tokenizer, text, 0)
        parts.append(_cut(part, 0, old))
        part = _cut(following, new, None)
    return Tokens(*map(np.concatenate, zip(*parts, part, strict=True)))


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str, begin: int) -> Tokens:
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans = np.array(found["offset_mapping"], np.int64).reshape(-1, 2) + begin
    return Tokens(np.array(found["input_ids"], np.int32), spans)


def _cut(tokens: Tokens, begin: int, end: int | None) -> Tokens:
    return Tokens(tokens.ids[begin:end], tokens.spans[begin:end])
