"""Instructions behind real texts: what they are made of, and the host's own answers in place of targets."""

import secrets
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.prompts import PromptSource, TaskMix
from experiments.recordings import RecordPool
from experiments.tasks import Split, load_task
from experiments.tasks.code_completion import PACKAGES
from experiments.tasks.encoding import Batch, encode, prompt_length
from experiments.tasks.haystack import pieces
from experiments.tasks.instructions import ASKED, INSTRUCTIONS, Instructions, code, documentation
from hosts.llama import forward
from hosts.stream import make_engine
from hosts.weights import Host, load_host
from namm.artefact import make
from namm.config import MemoryConfig
from namm.selection import SelectionConfig
from tests.experiments.test_tasks import SPLITS, byte_tokenizer
from tests.tiny import save_host, tiny_llama

SEED = secrets.randbelow(10**6)
OPEN = ("instructions/prose", "instructions/docs/scipy")
SOME = [task for task in INSTRUCTIONS if len(task.packages) == 1 or task.kind == "prose"]  # the rest is much to parse


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("task", SOME, ids=lambda task: task.name)
def test_a_text_of_its_kind_and_split_behind_which_an_instruction_stands(task: Instructions, split: Split) -> None:
    tokenizer = byte_tokenizer(merges=500, chat=True)
    assert load_task(task.name) == task
    sample = task.make(tokenizer, 1000, split, SEED)
    assert sample == task.make(tokenizer, 1000, split, SEED) != task.make(tokenizer, 1000, split, SEED + 1)
    assert prompt_length(tokenizer, sample) + sample.max_new_tokens <= 1000
    assert sample.question in ASKED and sample.answers == () and sample.target == ""
    texts = {
        "prose": lambda: (" ".join(pieces("text", split) * 2),),
        "code": lambda: code(task.packages, split),
        "docs": lambda: documentation(task.packages, split),
    }[task.kind]()
    assert sample.context.endswith("\n\n") and any(sample.context.strip() in text for text in texts)
    encoded = encode(tokenizer, sample, "chat")
    assert len(encoded.target) == 0 and str(tokenizer.decode(encoded.question)).startswith(sample.question)


def test_texts_are_of_many_lengths_and_their_splits_disjoint() -> None:
    tokenizer = byte_tokenizer(merges=500, chat=True)
    samples = [Instructions("code").make(tokenizer, 2000, "train", SEED + i) for i in range(30)]
    lengths = [prompt_length(tokenizer, sample) for sample in samples]
    assert min(lengths) > 200 and max(lengths) - min(lengths) > 700
    assert len({sample.question for sample in samples}) > 4
    for package in PACKAGES:
        parts = [set(code((package,), split)) for split in SPLITS]
        assert all(parts) and sum(map(len, parts)) - len(set().union(*parts)) < 3  # a few files are alike


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Host:
    model = tiny_llama(max_position_embeddings=2048, num_hidden_layers=1)
    return load_host(str(save_host(tmp_path_factory.mktemp("host"), model)))


def greedy(host: Host, prompt: Batch, steps: int) -> list[int]:
    """The host's own answer by plain forwards, its end token included."""
    ids = [*prompt.context[: prompt.context_length], *prompt.question[: prompt.question_length]]
    out: list[int] = []
    while len(out) < steps and not (out and out[-1] in host.spec.eos_ids):
        tokens = np.zeros((1, 640), np.int32)  # what comes later is not seen
        tokens[0, : len(ids) + len(out)] = [*ids, *out]
        scores = forward(host.params, host.spec, jnp.asarray(tokens))
        out.append(int(np.argmax(scores[0, len(ids) + len(out) - 1])))
    return out


@pytest.mark.parametrize("early", [False, True])
def test_the_hosts_own_answer_is_the_target(
    early: bool, tiny: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a task with a target of its own, from the disk too, and where the answer ends before its limit."""
    monkeypatch.setenv("NAMM_CACHE", str(tmp_path))
    monkeypatch.setattr("experiments.tasks.instructions.ANSWER", 6)
    mix = TaskMix(("passkey", *OPEN), 500)
    source = PromptSource(tiny, mix, unanswered=True)
    steps = source.widths.target
    memory = make("x", MemoryConfig(("norms",), selection=SelectionConfig(threshold=None)))
    host = tiny
    if early:
        second = greedy(tiny, Batch(*(x[0] for x in source.batch("train", [1]))), 2)[-1]
        host = tiny._replace(spec=replace(tiny.spec, eos_ids=(second,)))
        source.host = host
    engine = make_engine(host.spec, memory.policy, memory.selection, 500)
    for held in (False, True):
        if held:
            monkeypatch.setattr(RecordPool, "_record", None)  # nothing is read again
        records = RecordPool(engine, host.params, source, 128, 4, 3, gib=1.0).get("train", [0, 1, 2])
        for index, one in enumerate(records):
            given = Batch(*(x[0] for x in source.batch("train", [index])))
            target = one.prompt.target[: one.prompt.target_length].tolist()
            if index:
                assert target == greedy(host, given, steps) and given.target_length == 0
                assert one.exact == 1.0
            else:
                jax.tree.map(np.testing.assert_array_equal, one.prompt, given)
    assert not early or records[1].prompt.target_length == 2


def test_only_a_fit_takes_tasks_without_answers(tiny: Host) -> None:
    with pytest.raises(ValueError, match="instructions/prose has no answers to score; it is for fit_tasks alone"):
        PromptSource(tiny, TaskMix(("passkey", "instructions/prose"), 500))
