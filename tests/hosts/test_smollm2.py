"""The real pretrained host against `transformers`, which reads the same GGUF file through torch."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from hosts import smollm2
from hosts.llama import forward
from hosts.weights import Host, list_hosts, load_host

pytestmark = pytest.mark.smollm2
PROMPT = "The lighthouse keeper wrote a number, 48151, on the wall. Then he walked down to the sea and"
TEXTS = [
    PROMPT,
    "naïve Ünïcode — 日本語, العربية, 🎉🎉 and tabs\t\tnewlines\n\n  indented   spaces  ",
    "def f(x):\n    return x**2 + 3.14159e-10  # 007\r\n",
    "<|im_start|>user\nIt's 10:45, we'll meet at 1,234,567 <|im_end|>\n<|endoftext|><file_sep> I'VE",
    "",
]


@pytest.fixture(scope="module")
def host() -> Host:
    try:
        smollm2.fetch()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return load_host(smollm2.NAME)


@pytest.fixture(scope="module")
def oracle(host: Host) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = smollm2.fetch()
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def test_tokenizer_agrees(host: Host, oracle: tuple[Any, Any]) -> None:
    for text in TEXTS:
        ids = host.tokenizer(text).input_ids
        assert ids == oracle[1](text).input_ids
        assert host.tokenizer.decode(ids) == text
    chat = [{"role": "user", "content": "What is 17 + 4?"}, {"role": "assistant", "content": "21"}]
    for options in ({}, {"add_generation_prompt": True}):
        ours, theirs = (
            tokenizer.apply_chat_template(chat, tokenize=False, **options) for tokenizer in (host.tokenizer, oracle[1])
        )
        assert ours == theirs and "<|im_start|>user\nWhat is 17 + 4?<|im_end|>" in ours
    for name in ("bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id", "all_special_ids"):
        assert getattr(host.tokenizer, name) == getattr(oracle[1], name)


def test_digits_are_split_before_spaces_are(host: Host) -> None:
    """The file's label `smollm` asks for it; `transformers` 5.23 drops the label when it reads GGUF."""
    assert host.tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]


def test_logits_and_greedy_tokens_agree(host: Host, oracle: tuple[Any, Any]) -> None:
    ids = host.tokenizer(PROMPT).input_ids
    with torch.no_grad():
        options = {"max_new_tokens": 64, "min_new_tokens": 64, "do_sample": False}
        expected = oracle[0].generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), **options)[0]
        logits = oracle[0](expected[None]).logits[0].numpy()
    got = np.array(forward(host.params, host.spec, jnp.asarray(expected.numpy())[None])[0])
    np.testing.assert_allclose(got, logits, atol=1e-3)
    # each choice given the same tokens before it: the greedy continuation, by induction
    got[:, list(host.spec.eos_ids)] = -np.inf  # as min_new_tokens does
    np.testing.assert_array_equal(got[len(ids) - 1 : -1].argmax(-1), expected[len(ids) :])


def test_listing_knows_the_fetched_host(host: Host) -> None:
    line = list_hosts()[0]
    assert (line.name, line.available, line.spec) == ("smollm2-135m", True, host.spec)
    assert host.spec.kv_bytes(jnp.float32) == 30 * 3 * 64 * 2 * 4
