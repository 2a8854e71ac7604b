"""`namm chat`: turns without end at constant memory, the whole conversation's answers, decay by turns, a clear end."""

import io
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.chat import Conversation, turn_tokens
from experiments.cli import main
from hosts.llama import forward
from hosts.weights import Host, load_host
from namm.artefact import training_free
from tests.tiny import tiny_tokenizer

TEMPLATE = (
    "{% for m in messages %}{% if loop.first %}[system]{% endif %}<{{ m['role'] }}>{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
WORDS = ["set", "red", "fox", "tree", "green", "get", "old", "the", "is", "blue"]

pytestmark = pytest.mark.usefixtures("compile_quickly")


@pytest.fixture(scope="module")
def host() -> Host:
    return load_host("pocket")


@pytest.fixture
def rng():
    return np.random.default_rng()


def sentence(rng, words: int) -> str:
    return " ".join(rng.choice(WORDS, words))


def test_answers_are_those_of_the_whole_conversation_at_once(host, rng) -> None:
    """Under the full cache every answer token is the host's own choice after all that was said before it."""
    talk = Conversation(host, training_free("keep-all", interval=16), budget=1)
    said: list[int] = []
    answers = []
    for number in range(4):
        text = sentence(rng, int(rng.integers(2, 12)))
        said += turn_tokens(host.tokenizer, text, first=number == 0)
        answer = list(talk.turn(text, longest=9))
        answers.append((len(said), answer))
        said += answer
    logits = jax.jit(forward, static_argnums=1)(host.params, host.spec, jnp.asarray([said]))[0]
    best = np.argmax(np.asarray(logits), axis=1)
    for begin, answer in answers:
        chosen = best[begin - 1 : begin + len(answer)].tolist()
        assert answer == chosen[:-1]
        assert len(answer) == 9 or chosen[-1] in host.spec.eos_ids
    assert talk.reader.seen == len(said) and talk.reader.kept_share == 1.0


@pytest.mark.parametrize("name", ["streaming-llm", "sirllm:decay=0.7"])
def test_many_turns_take_no_more_memory(host, rng, name: str) -> None:
    talk = Conversation(host, training_free(name, interval=16), budget=48, temperature=0.8)
    sizes = set()
    for _ in range(40):
        list(talk.turn(sentence(rng, 8), longest=5))
        sizes.add(talk.reader.cache_bytes)
        assert np.asarray(talk.reader.stream.cache.valid).sum(-1).max() <= 48
    assert len(sizes) == 1 and talk.reader.kept_share < 0.1


def test_sirllm_decays_once_a_turn(host, rng) -> None:
    """Surprisals of turn k of 3 shrink 4 - k times, however many updates each turn needed."""
    texts = [sentence(rng, 15) for _ in range(3)]
    found, ends = [], [0]
    for decay in (1.0, 0.5):
        policy = training_free(f"sirllm:decay={decay}", interval=8)
        talk = Conversation(host, policy, budget=400)
        for text in texts:
            list(talk.turn(text, longest=4))
            ends.append(talk.reader.seen)
        found.append(np.asarray(talk.reader.stream.state.slots["surprisal"])[0, 0, 0])
    assert ends[1] > 16
    for turn in range(3):
        begin, end = ends[turn], ends[turn + 1]
        np.testing.assert_allclose(found[1][begin:end], found[0][begin:end] * 0.5 ** (3 - turn), rtol=1e-4, atol=1e-6)
    assert np.all(found[0][1 : ends[3]] > 0)


def test_turns_put_together_are_the_templates_conversation() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    ids = turn_tokens(tokenizer, "Hi there", first=True)
    ids += tokenizer("Hello!", add_special_tokens=False)["input_ids"]
    ids += turn_tokens(tokenizer, "And?", first=False)
    turns = [("user", "Hi there"), ("assistant", "Hello!"), ("user", "And?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    whole = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(ids) == whole and ids.count(tokenizer.eos_token_id) == 3


def test_a_template_that_rewrites_the_past_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages | length }}" + TEMPLATE
    with pytest.raises(ValueError, match="rewrites earlier turns"):
        turn_tokens(tokenizer, "Hi", first=False)


def talk_to(monkeypatch, capsys, lines: str, *words: str) -> tuple[int, list[str], str]:
    """Exit status, lines of numbers, errors."""
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    status = main(["chat", "--host", "pocket", "--interval", "16", "--answer", "4", *words])
    out, error = capsys.readouterr()
    return status, [line for line in out.splitlines() if "tokens" in line or "ends here" in line], error


def test_a_piped_conversation(monkeypatch, capsys) -> None:
    lines = "set red fox 12.\n\nget red fox\n/reset\nset red fox 12.\n/quit\nnever read\n"
    status, numbers, _ = talk_to(monkeypatch, capsys, lines, "--budget", "40")
    assert status == 0 and len(numbers) == 3
    counts = [int(line.split()[0].strip("[")) for line in numbers]
    assert counts[0] == counts[2] < counts[1]
    assert all("kept" in line and "tokens/s" in line and "cache" in line for line in numbers)


def test_original_positions_end_in_a_clear_line(host, monkeypatch, capsys) -> None:
    short = host._replace(spec=replace(host.spec, max_positions=60))
    monkeypatch.setattr("experiments.chat.load_host", lambda name: short)
    status, numbers, error = talk_to(monkeypatch, capsys, "the fox\n" * 20, "--memory", "h2o", "--budget", "40")
    if status == 0:  # an answer used the last position, or
        assert numbers[-1].startswith("The conversation ends here: h2o keeps original positions")
    else:  # a turn did not fit
        assert status == 2 and "tokens do not fit: h2o keeps original positions" in error
    assert all(int(line.split()[0].strip("[")) <= 60 for line in numbers if line.startswith("["))
    assert len(numbers) < 20


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--answer", "0"], "answer is 0"), (["--temperature", "-1"], "temperature is -1"), (["--memory", "no"], "'no'")],
)
def test_mistakes_are_named(words, message, monkeypatch, capsys) -> None:
    status, _, error = talk_to(monkeypatch, capsys, "", *words)
    assert status == 2 and message in error
