"""Long-context tasks for any tokenizer and length: made offline, or from benchmarks that bring their own data."""

from experiments.tasks.choubun import CHOUBUN
from experiments.tasks.code_completion import CODE
from experiments.tasks.dialogue import Dialogue
from experiments.tasks.grocery import Grocery
from experiments.tasks.infinitebench import INFINITEBENCH
from experiments.tasks.instructions import INSTRUCTIONS
from experiments.tasks.jsonl import JsonLines
from experiments.tasks.longbench import LONGBENCH
from experiments.tasks.longbench_v2 import LongBenchV2
from experiments.tasks.niah import NEEDLES
from experiments.tasks.passkey import Passkey
from experiments.tasks.recall import Recall
from experiments.tasks.rock_paper_scissors import RPS
from experiments.tasks.ruler import RELEASED, RULER
from experiments.tasks.sample import Sample, Split, Task
from experiments.tasks.stream_eval import StreamEval

__all__ = ["TASKS", "Sample", "Split", "Task", "load_task"]

WITH_DATA: tuple[Task, ...] = (*LONGBENCH, LongBenchV2(), *INFINITEBENCH, *CHOUBUN, Dialogue())
CHATTED: tuple[Task, ...] = (Grocery(), *RPS)
BUNDLED: tuple[Task, ...] = (Passkey(), *NEEDLES, Recall(), *RULER, *RELEASED, StreamEval(), *CODE, *CHATTED)
TASKS: tuple[str, ...] = tuple(task.name for task in BUNDLED)


def load_task(name_or_path: str) -> Task:
    """A bundled task or a benchmark's by name, or a user's own from a `.jsonl` file; ValueError for an unknown name."""
    if name_or_path.endswith(".jsonl"):
        return JsonLines.load(name_or_path)
    for task in (*BUNDLED, *INSTRUCTIONS, *WITH_DATA):
        if task.name == name_or_path:
            return task
    known = ", ".join((*TASKS, *(task.name for task in (*INSTRUCTIONS, *WITH_DATA))))
    raise ValueError(f"task: got {name_or_path!r}, expected a path that ends in .jsonl or one of {known}")
