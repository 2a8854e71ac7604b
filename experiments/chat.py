"""`namm chat`: a conversation with a host in constant memory, for any number of turns.

It runs on the JAX host and not on `hosts.pytorch.attach`: a `Reader` has one cache of fixed slots and a handful of
programs, compiled in the first turn, whereas the torch cache grows and shrinks with every turn and update.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from rich.console import Console
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase

from experiments.memories import named_memory
from experiments.report import size
from experiments.tasks.encoding import opening
from hosts.endless import Reader
from hosts.weights import Host, load_host
from namm.artefact import Memory
from namm.policies import SirLLM


@dataclass(frozen=True)
class ChatConfig:
    """Talk with a host: a line is a turn, /reset starts anew, /quit or the end of the input ends.

    memory: a folder, a shipped memory, or a policy, settings behind a colon ("sirllm:decay=0.7" forgets turn by turn).
    At slot positions (streaming-llm, sirllm) a conversation has no end; at original ones it ends where the host's
    positions do. budget: tokens kept per head. interval: tokens between updates of a policy; a trained memory brings
    its own. answer: tokens of an answer at most. temperature: 0 = the likeliest token, else sampled.
    """

    host: str = "smollm2-135m"
    memory: str = "streaming-llm"
    budget: int = 1024
    interval: int = 64
    answer: int = 256
    temperature: float = 0.0
    seed: int = 0


class Conversation:
    """Turns with a host under a memory. Every turn ends with an update.

    That update is what SirLLM's decay counts: its surprisals shrink once a turn (arXiv 2405.12528, section 3), and not
    at the updates that a long turn needs before its end.
    """

    def __init__(self, host: Host, memory: Memory, budget: int, temperature: float = 0.0, seed: int = 0):
        if temperature < 0:
            raise ValueError(f"temperature is {temperature}; expected 0 (the likeliest token) or more")
        self.tokenizer, self.ends = host.tokenizer, host.spec.eos_ids
        self.temperature, self.turn_policy = temperature, memory.policy
        if isinstance(memory.policy, SirLLM):
            memory = replace(memory, policy=replace(memory.policy, decay=1.0))
        self.reader = Reader(host, memory, budget, seed)

    def turn(self, text: str, longest: int) -> Iterator[int]:
        """Read a user's turn and yield the answer's tokens, each one when it is read, `longest` at most.

        ValueError where the turn does not fit the host's positions; an answer ends where they do.
        """
        reader = self.reader
        tokens = turn_tokens(self.tokenizer, text, first=reader.seen == 0)
        reader.read(tokens)
        for _ in range(min(longest, reader.room)):
            token = reader.pick(self.temperature)
            if token in self.ends:
                break
            reader.read([token])
            yield token
        reader.update(self.turn_policy)


def turn_tokens(tokenizer: PreTrainedTokenizerBase, text: str, first: bool) -> list[int]:
    """Ids of a user's turn up to where the answer starts, and before it the end of the answer that came earlier.

    Without a chat template, a turn is a line. ValueError for a template that renders earlier turns differently later.
    """
    if not tokenizer.chat_template:
        begin = list(opening(tokenizer, "plain")) if first else []
        return begin + tokenizer(f"{text}\n" if first else f"\n{text}\n", add_special_tokens=False)["input_ids"]
    if first:
        return tokenizer(_render(tokenizer, text), add_special_tokens=False)["input_ids"]
    before, answer = _render(tokenizer, "a"), "b"  # what they were makes no difference to what follows
    whole = _render(tokenizer, "a", answer, text)
    if not whole.startswith(before + answer):
        raise ValueError("this tokenizer's chat template rewrites earlier turns, which the cache holds as they were")
    return tokenizer(whole.removeprefix(before + answer), add_special_tokens=False)["input_ids"]


def _render(tokenizer: PreTrainedTokenizerBase, *contents: str) -> str:
    roles = ("user", "assistant", "user")
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert isinstance(text, str)
    return text


def chat(config: ChatConfig, console: Console) -> None:
    """Read turns from standard input, print answers token by token and a line of numbers after each."""
    if config.answer < 1:
        raise ValueError(f"answer is {config.answer}; expected 1 or more tokens")
    memory = named_memory(config.memory, config.interval)
    talk = Conversation(load_host(config.host), memory, config.budget, config.temperature, config.seed)
    for text in _lines():
        if text == "/quit":
            return
        if text == "/reset":
            talk.reader.reset()
        elif text:
            _answer(talk, text, config.answer, console)
        if not talk.reader.room:
            console.print(
                f"The conversation ends here: {memory.name} keeps original positions, and {config.host} has no more"
            )
            return


def _lines() -> Iterator[str]:
    """The user's lines; a prompt is shown only to a person."""
    while True:
        try:
            yield input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return


def _answer(talk: Conversation, text: str, longest: int, console: Console) -> None:
    begin, seen = time.perf_counter(), talk.reader.seen
    decoder = DecodeStream(skip_special_tokens=True)
    for token in talk.turn(text, longest):
        piece = decoder.step(talk.tokenizer.backend_tokenizer, token)
        console.out(piece or "", end="", highlight=False)  # None while a character is incomplete
    reader = talk.reader
    speed = (reader.seen - seen) / (time.perf_counter() - begin)
    status = f"{reader.seen} tokens read, {reader.kept_share:.1%} kept, {speed:.0f} tokens/s"
    console.print(f"\n[{status}, cache {size(reader.cache_bytes)}]", style="dim", markup=False, highlight=False)
