"""What is told of a `transformers` model is what the JAX host of the same folder says."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hosts.pytorch.pretrained import load_model, outline
from hosts.weights import load_host
from tests.tiny import save_host, tiny_llama

SCALED = {"rope_theta": 500.0, "factor": 4.0}


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 500.0},
        {"rope_type": "linear", **SCALED},
        {"rope_type": "dynamic", **SCALED},
        {"rope_type": "yarn", **SCALED, "original_max_position_embeddings": 48},
    ],
)
def test_an_outline_is_that_of_the_host(rope: dict[str, Any], tmp_path: Path) -> None:
    path = save_host(tmp_path / "host", tiny_llama(rope_parameters=rope))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 7, 9]}))
    expected, got = load_host(str(path)), outline(str(path), load_model(str(path)))
    assert replace(got.spec, rope=expected.spec.rope) == expected.spec
    assert got.spec.rope.theta == expected.spec.rope.theta
    assert got.params["embedding"].dtype == expected.params["embedding"].dtype
    assert got.tokenizer("a text")["input_ids"] == expected.tokenizer("a text")["input_ids"]
