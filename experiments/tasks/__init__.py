"""Long-context tasks that are made offline, for any tokenizer and length."""

from experiments.tasks.jsonl import JsonLines
from experiments.tasks.niah import NEEDLES
from experiments.tasks.passkey import Passkey
from experiments.tasks.recall import Recall
from experiments.tasks.sample import Sample, Split, Task

__all__ = ["TASKS", "Sample", "Split", "Task", "load_task"]

BUNDLED: tuple[Task, ...] = (Passkey(), *NEEDLES, Recall())
TASKS: tuple[str, ...] = tuple(task.name for task in BUNDLED)


def load_task(name_or_path: str) -> Task:
    """A bundled task by name, or a user's own from a `.jsonl` file; ValueError for an unknown name."""
    if name_or_path.endswith(".jsonl"):
        return JsonLines.load(name_or_path)
    for task in BUNDLED:
        if task.name == name_or_path:
            return task
    raise ValueError(f"task: got {name_or_path!r}, expected a path that ends in .jsonl or one of {', '.join(TASKS)}")
