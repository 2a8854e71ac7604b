"""The vision tasks as `namm transfer` plays them: a clip is read under a memory, then come the questions."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from experiments.played import Played, stayed, under_memory
from experiments.vision.pictures import png
from experiments.vision.tasks import Clip, VisionTask, find_task
from hosts.pytorch import settle
from hosts.pytorch.cache import NammCache
from hosts.pytorch.vision import TOKENS, VisionHost, load_vision, pixel_values


class Viewer:
    """A vision host that sees every clip once, however many memories watch it."""

    def __init__(self, host: VisionHost):
        self.host = host
        self.seen: dict[tuple[str, int], tuple[Clip, Float[Tensor, "token width"]]] = {}

    def watch(self, task: VisionTask, seed: int) -> tuple[Clip, Float[Tensor, "token width"]]:
        """A clip, and its frames as the decoder reads them."""
        if (task.name, seed) not in self.seen:
            clip = task.clip(seed)
            found: Any = self.host.model.get_image_features(pixel_values(torch.from_numpy(clip.frames)))
            self.seen[task.name, seed] = clip, torch.cat(list(found.pooler_output))
        return self.seen[task.name, seed]


class VisionTransfer:
    """Clips of a LLaVA; a step is the tokens of a frame.

    The memory reads the clip, updates once more at its end, and meets the questions after that. A question counts as
    answered where the likeliest token of the whole vocabulary is the first of the answer's (all answers' differ).
    name: of a task, or TASK@HOST for a host of one's own: a folder that holds a projector.
    """

    controls, unit, step, seeds, prompts = (), "clips", "frame", None, ()

    def __init__(self, name: str):
        task, _, host = name.partition("@")
        self.task = find_task(task)
        self.name, self.host, self.tokens = name, host or self.task.host, 1 + TOKENS * self.task.frames

    def load(self) -> Viewer:
        return Viewer(load_vision(self.host))

    def model(self, host: Viewer) -> Any:
        return host.host.model

    @torch.inference_mode()
    def play(self, host: Viewer, seeds: Sequence[int], control: str | None) -> list[Played]:
        begin, model = time.perf_counter(), host.host.model
        clips, seen = zip(*[host.watch(self.task, seed) for seed in seeds], strict=True)
        cache = under_memory(host.host.read(seen))
        settle(model)
        found = [stayed(cache, row, self.tokens) for row in range(len(seeds))]
        right = ask(host.host, cache, clips)
        seconds = (time.perf_counter() - begin) / len(seeds)
        return [
            Played(
                seed=seed,
                returned=float(np.mean(list(parts.values()))),
                steps=self.task.frames,
                cue=clip.place,
                cue_kept=float(self.by_step(one.share.tolist())[clip.place]),
                seconds=seconds,
                parts=parts,
                **one.fields(),
            )
            for seed, clip, one, parts in zip(seeds, clips, found, right, strict=True)
        ]

    def score(self, returned: float) -> float:
        return returned

    def by_step(self, kept: Sequence[float]) -> Float[np.ndarray, " step"]:
        """Mean over a frame's tokens; the text's first token stands before them."""
        return np.reshape(kept[1:], (-1, TOKENS)).mean(1)

    def images(self, host: Viewer, seed: int) -> list[bytes]:
        return [png(frame) for frame in self.task.clip(seed).frames]

    def words(self, host: Viewer, seed: int) -> tuple[str, ...]:
        return ()


def ask(host: VisionHost, cache: NammCache, clips: Sequence[Clip]) -> list[dict[str, float]]:
    """1 for every kind of question that is answered right behind a clip, else 0; the cache is used up."""
    asked = [one for clip in clips for one in clip.questions]
    rows = [host.question(one.text) for one in asked]
    width = max(map(len, rows))
    ids = torch.tensor([row[:1] * (width - len(row)) + row for row in rows])
    mask = (torch.arange(width) >= width - torch.tensor([[len(row)] for row in rows])).long()
    each = len(asked) // len(clips)
    cache.batch_select_indices(torch.arange(len(clips)).repeat_interleave(each))
    model: Any = host.model
    out = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1)
    answers = torch.tensor([host.answer(one.answer) for one in asked])
    right = (out.logits[:, -1].argmax(-1) == answers).float().tolist()
    kinds = [one.kind for one in asked]
    return [dict(zip(kinds[i : i + each], right[i : i + each], strict=True)) for i in range(0, len(asked), each)]
