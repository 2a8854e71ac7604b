"""What a run reports: metrics.jsonl always, trackers that are asked for, and the screen."""

import importlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

Reporter = Literal["tensorboard", "wandb", "trackio"]
_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}
# Field of a record, what the screen calls it, and how it is written.
_SHOWN = (
    ("best_fitness", "best", "{:.3f}"),
    ("mean_fitness", "mean", "{:.3f}"),
    ("validation", "validation", "{:.3f}"),
    ("kept", "kept", "{:.1%}"),
    ("candidates_per_second", "candidates/s", "{:.2f}"),
)


class Metrics:
    """metrics.jsonl of a run folder: one line a generation, flushed as it is written.

    Opened at `generation`, the number of generations completed: what an interrupted run wrote beyond it is dropped,
    because these generations will be repeated.
    """

    def __init__(self, folder: str | os.PathLike, generation: int = 0):
        self.path = Path(folder) / "metrics.jsonl"
        self.history = [record for record in complete_lines(self.path) if record["generation"] <= generation]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(_line(record) for record in self.history))
        temporary.replace(self.path)
        self._file = self.path.open("a")

    def write(self, record: Mapping[str, Any]) -> None:
        line = _line(record)
        self.history.append(json.loads(line))
        self._file.write(line)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _line(record: Mapping[str, Any]) -> str:
    # JSON has no NaN: a value that is not there is null.
    clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(clean) + "\n"


def complete_lines(path: Path) -> list[dict[str, Any]]:
    """Records of a file whose last line may be torn."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: not JSON; repair or remove the line") from None
    return records


@runtime_checkable
class Backend(Protocol):
    """A tracker that is told the scalars of each generation."""

    def write(self, scalars: Mapping[str, float], generation: int) -> None: ...
    def close(self) -> None: ...


def open_backend(name: Reporter, folder: str | os.PathLike, config: Mapping[str, Any]) -> Backend:
    """The tracker `name`, imported only now. ValueError for an unknown name, ImportError if it is not installed."""
    if name not in get_args(Reporter):
        raise ValueError(f"report_to: got {name!r}, expected one of {', '.join(get_args(Reporter))}")
    try:
        module = importlib.import_module(_PACKAGES[name])
    except ImportError as error:
        raise ImportError(f"report_to {name} needs a package: pip install {_PACKAGES[name]}") from error
    folder = Path(folder).absolute()
    return _TensorBoard(module, folder) if name == "tensorboard" else _Remote(module, name, folder, config)


class _TensorBoard:
    def __init__(self, module: Any, folder: Path):
        self._writer = module.SummaryWriter(str(folder / "tensorboard"))

    def write(self, scalars: Mapping[str, float], generation: int) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, generation)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Remote:
    """wandb and trackio, whose interfaces agree on what is needed here."""

    def __init__(self, module: Any, name: str, folder: Path, config: Mapping[str, Any]):
        self._module = module
        place = {"dir": str(folder), "id": folder.name} if name == "wandb" else {}
        project = folder.parent.name or "evolve"
        module.init(project=project, name=folder.name, config=dict(config), resume="allow", **place)

    def write(self, scalars: Mapping[str, float], generation: int) -> None:
        self._module.log(dict(scalars), step=generation)

    def close(self) -> None:
        self._module.finish()


class Screen:
    """A progress bar on a terminal, one plain line a generation elsewhere."""

    def __init__(self, console: Console, total: int, done: int = 0):
        self._console, self._total, self._shown = console, total, {}
        self._bar = None
        if console.is_terminal:
            columns = (SpinnerColumn(), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=console)
            self._task = self._bar.add_task("", total=total, completed=done)
            self._bar.start()

    def show(self, record: Mapping[str, Any], seconds_left: float | None = None) -> None:
        """Show a record of `Metrics`; the last validation score stays until there is a new one."""
        self._shown |= {name: value for name, value in record.items() if value is not None}
        texts = [f"{label} {form.format(self._shown[name])}" for name, label, form in _SHOWN if name in self._shown]
        if self._bar is not None:
            self._bar.update(self._task, completed=record["generation"], description="  ".join(texts))
            return
        left = [] if seconds_left is None else [f"{seconds_left / 60:.1f} min left"]
        start = f"generation {record['generation']}/{self._total} ({record['stage']})"
        self._console.print("  ".join([start, *texts, *left]), highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


class Tracking:
    """All of the above for one run; silent, but for the history, where `writes` is False (other processes)."""

    def __init__(
        self,
        folder: str | os.PathLike,
        config: Mapping[str, Any],
        *,
        total: int,
        done: int,
        report_to: Sequence[Reporter] = (),
        console: Console | None = None,
        writes: bool = True,
    ):
        self.history: list[dict[str, Any]] = []
        self._metrics, self._backends = None, []
        if writes:
            self._backends = [open_backend(name, folder, config) for name in report_to]
            self._metrics = Metrics(folder, done)
            self.history = self._metrics.history
        self._screen = Screen(Console(quiet=True) if not writes else console or Console(), total, max(done, 0))

    def write(self, record: Mapping[str, Any], seconds_left: float | None = None) -> None:
        """One generation's record: "generation", "stage", and scalars."""
        if self._metrics is None:
            self.history.append(dict(record))
        else:
            self._metrics.write(record)
        scalars = {k: v for k, v in record.items() if isinstance(v, int | float) and k != "generation"}
        for backend in self._backends:
            backend.write(scalars, record["generation"])
        self._screen.show(record, seconds_left)

    def say(self, text: str) -> None:
        self._screen.say(text)

    def close(self) -> None:
        self._screen.close()
        for closable in (*self._backends, *filter(None, [self._metrics])):
            closable.close()
