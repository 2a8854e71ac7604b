"""Train a vision host's projector: `python -m experiments.recipes.train_vision --host llava-robots`.

Claims: see the READMEs of hosts/pretrained/llava-smollm2 and llava-robots. Both models stay frozen. The tower's
features of all pictures are computed once. First the projector learns to give each token the sum of the input
embeddings of its picture's answers, such as its colour and shape (for a frame that shows nothing, that of a full stop),
without the language model; then it learns through the language model from answers, on clips of every length that is
evaluated, which join one by one. Batches follow from the seed and the step's number, so that a run that is killed and
started again gives the same projector.
"""

import logging
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
import tyro
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from experiments.gradient import FitConfig, fit
from experiments.vision.pictures import Album, Picture, Question
from experiments.vision.tasks import TASKS
from hosts.pytorch.vision import PROJECTOR, TOKENS, VisionHost, pixel_values, untrained
from hosts.weights import PRETRAINED

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(FitConfig):
    """aligned: steps of the alignment. tokens: of a batch, about; blanks: frames that show nothing."""

    host: str = "llava-smollm2"
    aligned: int = 300
    steps: int = 500
    tokens: int = 480
    blanks: int = 2000
    warmup: int = 20
    save_every: int = 25

    def __post_init__(self) -> None:
        if self.host not in (known := sorted({task.host for task in TASKS.values()})):
            raise ValueError(f"host is {self.host!r}; expected one of {', '.join(known)}")
        if min(self.steps, self.tokens, self.blanks, self.warmup) < 1 or self.aligned < 0:
            raise ValueError(f"{self}; expected sizes of 1 or more")


class Data(NamedTuple):
    """An album's pictures, and the tower's features of them and of frames that show nothing."""

    album: Album
    pictures: tuple[Picture, ...]
    shown: Float[Tensor, "picture token feature"]
    blank: Float[Tensor, "frame token feature"]


@torch.no_grad()
def features(host: VisionHost, images: list[np.ndarray]) -> Float[Tensor, "image token feature"]:
    """What the tower sees in images, a hundred at a time."""
    tower = host.model.model.vision_tower
    parts = [np.stack(images[i : i + 100]) for i in range(0, len(images), 100)]
    return torch.cat([tower(pixel_values(torch.from_numpy(part))).last_hidden_state for part in parts])


def read(host: VisionHost, config: TrainConfig, album: Album) -> Data:
    """The training split and its blank frames, seen once."""
    found = album.pictures("train")
    rng = np.random.default_rng(config.seed)
    return Data(
        album,
        found,
        features(host, [one.pixels() for one in found]),
        features(host, [album.blank(rng) for _ in range(config.blanks)]),
    )


def align(host: VisionHost, data: Data, config: TrainConfig) -> None:
    """Teach the projector input embeddings of words: the picture's answers, a full stop where nothing is."""
    projector, embed = host.model.model.multi_modal_projector, host.model.get_input_embeddings()

    def words(*texts: str) -> Float[Tensor, " width"]:
        return embed(torch.tensor([host.answer(text) for text in texts])).float().sum(0)

    named = [dict((one.kind, one.answer) for one in picture.questions).values() for picture in data.pictures]
    with torch.no_grad():
        wanted = torch.stack([words(*names) for names in named] + [words(".")] * len(data.blank))
        scale = wanted.std()
    seen = torch.cat([data.shown, data.blank])
    update = torch.optim.Adam(projector.parameters(), lr=config.rate)
    rng = np.random.default_rng(config.seed)
    for step in range(config.aligned):
        rows = torch.from_numpy(rng.integers(len(seen), size=128))
        found = mse_loss(projector(seen[rows]) / scale, (wanted[rows] / scale)[:, None].expand(-1, seen.shape[1], -1))
        update.zero_grad()
        found.backward()
        update.step()
        if step % 100 == 0 or step == config.aligned - 1:
            log.info("aligned %d loss %.4f", step, found.item())


def loss(
    host: VisionHost, seen: Float[Tensor, "clip frame token feature"], asked: list[Question]
) -> tuple[Float[Tensor, ""], float]:
    """Cross-entropy (nats) of the answers' first tokens behind clips, over the whole vocabulary, and the share that
    is the likeliest token. `asked` holds the same number of questions for every clip, clip by clip."""
    model, clips = host.model, seen.shape[0]
    cache = host.read(model.model.multi_modal_projector(seen.flatten(1, 2)))
    cache.batch_repeat_interleave(len(asked) // clips)
    rows = [host.question(one.text) for one in asked]
    ends = torch.tensor([len(row) - 1 for row in rows])
    padded = torch.tensor([row + [row[-1]] * (max(map(len, rows)) - len(row)) for row in rows])  # nobody sees it
    hidden = model.model(input_ids=padded, past_key_values=cache, use_cache=True).last_hidden_state
    logits = model.lm_head(hidden[torch.arange(len(rows)), ends]).float()
    answers = torch.tensor([host.answer(one.answer) for one in asked])
    return cross_entropy(logits, answers), float((logits.argmax(-1) == answers).float().mean())


def draw(
    rng: np.random.Generator, data: Data, frames: int, clips: int
) -> tuple[Float[Tensor, "clip frame token feature"], list[Question]]:
    """Clips with one picture among blank frames, and a question of every kind about each."""
    chosen = rng.integers(len(data.pictures), size=clips)
    seen = data.blank[torch.from_numpy(rng.integers(len(data.blank), size=(clips, frames)))].clone()
    seen[torch.arange(clips), torch.from_numpy(rng.integers(frames, size=clips))] = data.shown[torch.from_numpy(chosen)]
    return seen, [one for i in chosen for one in data.album.ask(data.pictures[i], rng)]


def train(config: TrainConfig, host: VisionHost) -> VisionHost:
    """Train from the newest checkpoint, or from the start, to the last step."""
    torch.manual_seed(config.seed)
    tasks = [task for task in TASKS.values() if task.host == config.host]
    lengths = sorted(task.frames for task in tasks)
    projector = host.model.model.multi_modal_projector
    for layer in (projector.linear_1, projector.linear_2):
        layer.reset_parameters()
    projector.requires_grad_(True)
    for part in (host.model.model.language_model, host.model.lm_head):
        part.to(torch.bfloat16)  # as it is loaded; twice as fast as float32
    data = read(host, config, tasks[0].album)
    update = torch.optim.Adam(projector.parameters(), lr=config.rate)

    def batch_loss(step: int, rng: np.random.Generator) -> Float[Tensor, ""]:
        joined = min(len(lengths), 1 + 2 * len(lengths) * step // config.steps)
        frames = int(rng.choice(lengths[:joined]))
        found, right = loss(host, *draw(rng, data, frames, max(2, config.tokens // (TOKENS * frames + 24))))
        log.info("step %d frames %d loss %.4f right %.2f", step, frames, found.item(), right)
        return found

    fit(projector, update, config, batch_loss, lambda: align(host, data, config))
    return host


def main(config: TrainConfig) -> None:
    """Train and write the projector."""
    log.info("%s", asdict(config))
    host = train(config, untrained())
    folder = config.output or PRETRAINED / config.host
    folder.mkdir(parents=True, exist_ok=True)
    save_file(host.model.model.multi_modal_projector.state_dict(), folder / PROJECTOR)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("absl").setLevel(logging.WARNING)
    main(tyro.cli(TrainConfig, description=__doc__))
