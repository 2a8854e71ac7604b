"""The vision tasks by name: clips of a picture among frames that show nothing, then questions about it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class VisionTask:
    """Clips of so many frames, one of which shows something.

    host: a folder of hosts/pretrained.
    """

    name: str
    host: str
    frames: int


TASKS = {f"vqa-{frames}": VisionTask(f"vqa-{frames}", "llava-smollm2", frames) for frames in (1, 4, 16, 64)}
