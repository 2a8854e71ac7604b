"""LLaVA-NeXT-Video: frames of a clip, then multiple-choice questions about them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers import AutoTokenizer, CLIPImageProcessorPil, LlavaNextVideoForConditionalGeneration

from hosts.pytorch.pretrained import everywhere, from_hub

PROMPT = "USER: <video>\n{} ASSISTANT:"  # Vicuna's turns, as on the model's card


class VideoHost(NamedTuple):
    """A LLaVA-NeXT-Video model and its tokenizer."""

    model: LlavaNextVideoForConditionalGeneration
    tokenizer: Any

    @property
    def frame_tokens(self) -> int:
        """Tokens of a frame: its patches, pooled."""
        config: Any = self.model.config
        return (config.vision_config.image_size // config.vision_config.patch_size // config.spatial_pool_stride) ** 2

    @property
    def positions(self) -> int:
        """The longest prompt of the decoder in tokens."""
        config: Any = self.model.config
        return config.text_config.max_position_embeddings

    def pixels(self, frames: UInt8[np.ndarray, "frame height width 3"]) -> Float[Tensor, "frame 3 side side"]:
        """Frames as the vision tower takes them: short side resized, centre cut out, CLIP's means and deviations."""
        config: Any = self.model.config
        side = config.vision_config.image_size
        process = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        return process(list(frames), return_tensors="pt")["pixel_values"]

    def prompt(self, question: str = "") -> tuple[list[int], list[int]]:
        """Ids before the frames' tokens, and those behind them that ask."""
        ids = self.tokenizer(PROMPT.format(question)).input_ids
        place = ids.index(self.model.config.video_token_id)
        return ids[:place], ids[place + 1 :]

    def read(self, pixels: Float[Tensor, "frame 3 side side"]) -> Any:
        """The cache behind a clip."""
        model: Any = self.model
        ids = [*self.prompt()[0], *[model.config.video_token_id] * (self.frame_tokens * len(pixels))]
        tokens, frames = torch.tensor([ids], device=model.device), pixels[None].to(model.device, model.dtype)
        return model.model(input_ids=tokens, pixel_values_videos=frames, use_cache=True).past_key_values

    def choose(self, cache: Any, question: str, options: int) -> int:
        """The option (0 for A) whose letter is the likeliest next token behind a clip; the cache is used up."""
        model: Any = self.model
        tokens = torch.tensor([self.prompt(question)[1]], device=model.device)
        out = model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        said = [f"{PROMPT.format('')} {chr(ord('A') + i)}" for i in range(options)]
        letters = [self.tokenizer(text).input_ids[-1] for text in said]
        return int(out.logits[0, -1, letters].argmax())


def load_video(source: str | Path, dtype: torch.dtype = torch.bfloat16) -> VideoHost:
    """A model of the hub or in a folder, on the accelerators that there are; FileNotFoundError where there is none."""
    model = from_hub(LlavaNextVideoForConditionalGeneration, source, dtype=dtype, device_map=everywhere())
    return VideoHost(model.eval().requires_grad_(False), from_hub(AutoTokenizer, source))
