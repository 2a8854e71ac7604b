"""The pocket host's tokenizer, its training sequences, exact resumption, and the directory it is written to."""

import secrets
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.recipes.pocket_model import init_params, pocket_spec, save_host
from experiments.recipes.pocket_tokenizer import build_tokenizer
from experiments.recipes.train_pocket import (
    Stage,
    TrainConfig,
    accuracy,
    draw_sequence,
    train,
)
from experiments.tasks import load_task
from hosts.weights import POCKET, load_host

SEED = secrets.randbelow(10**6)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_tokenizer_is_lossless_and_splits_digits(tokenizer):
    text = "Hé ü\n\t 漢字 12 and  2345, set red fox 472."
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and tokenizer.decode(ids[1:]) == text
    assert tokenizer.tokenize(" set red fox 472.") == ["Ġset", "Ġred", "Ġfox", "Ġ4", "7", "2", "."]
    for name in ("passkey", "niah-single-noise", "pocket-recall"):
        load_task(name).make(tokenizer, 128, "train", SEED)  # all fit the shortest length


@pytest.mark.parametrize("length", [96, 200, 700])
def test_training_sequence_asks_what_it_states(tokenizer, length: int):
    tokens, scored = draw_sequence(tokenizer, np.random.default_rng(SEED), length)
    assert tokens.shape == scored.shape == (length,)
    text = tokenizer.decode(tokens[tokens > 1])
    stated = {line[4:] for line in text.split(". ") if line.startswith("set")}
    asked = [line[4:] for line in text.rstrip(".").split(". ") if line.startswith("get")]
    assert len(asked) == 2 * len(stated) == 2 * min(10, length // 28) and {one.rstrip(".") for one in asked} == stated
    expected = [f"{one.split()[1]} {one[-3:]}" for one in (line.rstrip(".") for line in asked)]
    assert tokenizer.decode(tokens[scored]).split() == " ".join(expected).split(), "nouns and digits are scored"


def test_resumed_training_equals_uninterrupted(tokenizer, tmp_path: Path):
    config = TrainConfig(tmp_path / "out", tmp_path / "run", SEED, (Stage(96, 4),), step_tokens=96, save_every=1)
    _, whole = train(config, tokenizer)
    shutil.rmtree(tmp_path / "run" / "3")
    _, resumed = train(config, tokenizer)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), whole, resumed))
    with pytest.raises(ValueError, match=rf"seed: .* has {SEED}, got {SEED + 1}.* another --checkpoints"):
        train(replace(config, seed=SEED + 1), tokenizer)
    (tmp_path / "run" / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"has [0-9] but no settings.json"):
        train(config, tokenizer)
    _, other = train(replace(config, seed=SEED + 1, checkpoints=tmp_path / "other"), tokenizer)
    assert not np.array_equal(whole["embedding"], other["embedding"])


def test_saved_host_loads_as_it_was(tokenizer, tmp_path: Path):
    spec = pocket_spec(len(tokenizer))
    params = init_params(spec, jax.random.key(SEED))
    save_host(tmp_path / "host", spec, params, tokenizer)
    host = load_host(tmp_path / "host")
    assert replace(host.spec, name="pocket") == spec
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), params, host.params))
    assert host.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) < 1_000_000


def test_shipped_host_answers():
    host = load_host("pocket")
    assert accuracy(host.spec, host.params, host.tokenizer, 512, 30) >= 0.97
    assert (POCKET / "model.safetensors").stat().st_size <= 4 * 1024**2


def test_config_errors():
    with pytest.raises(ValueError, match="stages"):
        TrainConfig(stages=(Stage(32, 5),))
    with pytest.raises(ValueError, match="step_tokens"):
        TrainConfig(step_tokens=512)
