"""A vision host of the real classes whose decoder is tiny and random, and whose tokenizer knows words."""

import zlib
from types import SimpleNamespace

import torch
from transformers import LlamaConfig

from hosts.pytorch.vision import TowerConfig, VisionHost, join, trained_tower
from tests.tiny import SIZES

IMAGE = 5


class Words:
    """Every word is a token, nearly always one of its own."""

    bos_token_id = 0

    def __call__(self, text: str) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[10 + zlib.crc32(word.encode()) % 300 for word in text.split()])


def tiny_vision() -> VisionHost:
    torch.manual_seed(0)
    model = join(LlamaConfig(**{**SIZES, "max_position_embeddings": 512}), IMAGE).eval().requires_grad_(False)
    model.model.vision_tower = trained_tower(TowerConfig())
    for parameter in model.model.multi_modal_projector.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.1)
    return VisionHost(model, Words())
