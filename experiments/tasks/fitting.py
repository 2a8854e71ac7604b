"""Prompts that are fitted to a length: too long ones cut in the middle, others grown until nothing more fits."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from experiments.tasks.encoding import prompt_length
from experiments.tasks.sample import Sample


def need(tokenizer: PreTrainedTokenizerBase, sample: Sample) -> int:
    """Tokens of the prompt and of the longest answer."""
    return prompt_length(tokenizer, sample) + sample.max_new_tokens


def cut_middle(tokenizer: PreTrainedTokenizerBase, length: int, sample: Sample) -> Sample:
    """The sample with as many tokens taken out of its middle as `length` asks; as it is where it fits.

    The first and the last half of the token budget stay, instruction and question counted in (LongBench's rule). The
    cut is made at characters, so that no half of a character is left, as decoding ids would. ValueError if nothing of
    the prompt fits.
    """
    text, boundary = sample.context + sample.question, len(sample.context)
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    kept, fitted = len(offsets), sample
    while (excess := need(tokenizer, fitted) - length) > 0:  # once, unless the seam makes new tokens
        kept -= excess
        if kept < 2:
            raise ValueError(
                f"{sample.task}: length {length} is too short, answer and chat template alone need "
                f"{length - kept} tokens with this tokenizer; use a longer length"
            )
        head = offsets[kept // 2 - 1][1]
        tail = max(head, offsets[len(offsets) - kept // 2][0])
        cut = head + boundary - tail if boundary >= tail else min(boundary, head)
        rest = text[:head] + text[tail:]
        fitted = replace(sample, context=rest[:cut], question=rest[cut:])
    return fitted


def largest(
    tokenizer: PreTrainedTokenizerBase, length: int, build: Callable[[int], Sample], least: int, most: int
) -> Sample:
    """`build(size)` for the largest size from `least` to `most` that fits; ValueError if `least` does not."""
    samples: dict[int, Sample] = {}
    needs: dict[int, int] = {}

    def fits(size: int) -> bool:
        samples[size] = build(size)
        needs[size] = need(tokenizer, samples[size])
        return needs[size] <= length

    if not fits(least):
        raise ValueError(
            f"{samples[least].task}: length {length} is too short, its smallest prompt needs {needs[least]} tokens "
            "with this tokenizer (answer included); use a longer length"
        )
    low, high = least, most + 1
    for guess in _guesses(length, least, needs):
        if low < guess < high:
            low, high = (guess, high) if fits(guess) else (low, guess)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return samples[low]


def _guesses(length: int, least: int, needs: Mapping[int, int]) -> Iterator[int]:
    """Sizes near the right one, since tokens grow almost linearly: far too long prompts take long to count."""
    yield (probe := least + 64)
    if needs.get(probe, 0) > needs[least]:
        guess = least + (length - needs[least]) * 64 // (needs[probe] - needs[least])
        yield from (guess, guess + guess // 64 + 1, guess - guess // 64 - 1)
