"""The `namm` command: parsing only."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro
from rich.console import Console

USAGE = """usage: namm COMMAND [options]

  evolve [RECIPE]   search a memory for a frozen host, compare it with hand-written policies
  searches          variants of a recipe at equal evaluations and several seeds: which way of searching wins
  agreement         do candidates rank alike when they evict from a record and while they read?
  evaluate          memories and policies side by side on the same prompts; again to resume
  transfer          a memory evolved on text in other models, games and clips, beside all controls; again to resume
  report FOLDER     a page and figures of an evaluation or a search
  convert           a checkpoint of the original implementation into a memory's folder
  stream            perplexity, memory and speed over a text without end
  chat              talk with a host in constant memory
  policies          the training-free policies and the memories that ship
  hosts             the frozen models that can be named
  device            an accelerator checked and timed against its limits, and a search on it in pieces
  bench             speed of the parts, as ratios in one run
  bench inference   a Hugging Face model with a memory against itself without: cache bytes, prefill, decoding

`namm COMMAND --help` lists every option. Without a recipe, `namm evolve` runs "smollm2"."""

REPORT = "Write report.html (one page, no network) and PNG figures to the folder of a finished evaluation or search."


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 with one line on stderr where the input is at fault."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Callable[[list[str]], None]] = {
        "evolve": _evolve,
        "searches": _searches,
        "agreement": _agreement,
        "evaluate": _evaluate,
        "transfer": _transfer,
        "convert": _convert,
        "stream": _stream,
        "chat": _chat,
        "report": _report,
        "policies": _policies,
        "hosts": _hosts,
        "device": _device,
        "bench": _bench,
    }
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if words[0] not in commands:
        print(f"namm: unknown command {words[0]!r}; expected one of {', '.join(commands)}", file=sys.stderr)
        return 2
    try:
        commands[words[0]](words[1:])
    except (ValueError, OSError, ImportError) as error:
        print(f"namm {words[0]}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def console() -> Console:
    """The terminal, or a page wide enough for the tables where the output goes to a file."""
    return Console() if sys.stdout.isatty() else Console(width=150)


def _evolve(words: list[str]) -> None:
    from dataclasses import dataclass
    from typing import Annotated

    from evolve.mesh import start_processes
    from experiments.recipes import DESCRIPTIONS, RECIPES
    from experiments.run_config import RunConfig

    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words = ["smollm2", *words]
    if words[0] not in RECIPES and words[0] not in ("-h", "--help"):
        raise ValueError(f"unknown recipe {words[0]!r}; expected one of {', '.join(RECIPES)}")

    @dataclass(frozen=True)
    class Options:
        """A recipe's settings, any of which can be overridden, and where the run is kept."""

        config: Annotated[RunConfig, tyro.conf.arg(name="")]
        folder: Path | None = None
        """Where the run is kept and found again; default runs/NAME."""
        data_dir: Path | None = None
        """Folder with benchmark files; default the one that NAMM_DATA names, else the hub."""

    choices = {name: (DESCRIPTIONS[name], Options(config)) for name, config in RECIPES.items()}
    options = tyro.extras.overridable_config_cli(choices, args=words, prog="namm evolve")
    start_processes()
    from experiments.tasks.corpora import use_data_folder
    from experiments.training import train

    use_data_folder(options.data_dir)
    train(options.config, options.folder or Path("runs") / options.config.name, console())


def _searches(words: list[str]) -> None:
    from experiments.searches import SearchesConfig, searches

    searches(tyro.cli(SearchesConfig, args=words, prog="namm searches"), console())


def _agreement(words: list[str]) -> None:
    from experiments.agreement import AgreementConfig, agreement

    agreement(tyro.cli(AgreementConfig, args=words, prog="namm agreement"), console())


def _device(words: list[str]) -> None:
    from experiments.device import DeviceConfig, device

    device(tyro.cli(DeviceConfig, args=words, prog="namm device"), console())


def _evaluate(words: list[str]) -> None:
    from experiments.comparison import EvaluateConfig, evaluate

    evaluate(tyro.cli(EvaluateConfig, args=words, prog="namm evaluate"), console())


def _transfer(words: list[str]) -> None:
    from experiments.transfer import TransferConfig, transfer

    transfer(tyro.cli(TransferConfig, args=words, prog="namm transfer"), console())


def _convert(words: list[str]) -> None:
    from experiments.convert import ConvertConfig, convert

    convert(tyro.cli(ConvertConfig, args=words, prog="namm convert"), console())


def _stream(words: list[str]) -> None:
    from experiments.streaming import StreamConfig, stream

    stream(tyro.cli(StreamConfig, args=words, prog="namm stream"), console())


def _chat(words: list[str]) -> None:
    from experiments.chat import ChatConfig, chat

    chat(tyro.cli(ChatConfig, args=words, prog="namm chat"), console())


def _report(words: list[str]) -> None:
    from experiments.page import write_report

    folder = tyro.cli(tyro.conf.Positional[Path], args=words, prog="namm report", description=REPORT)
    print(write_report(folder))


def _policies(words: list[str]) -> None:
    from experiments.listing import print_policies

    _no_options(words, "policies")
    print_policies(console())


def _hosts(words: list[str]) -> None:
    from experiments.listing import print_hosts

    _no_options(words, "hosts")
    print_hosts(console())


def _bench(words: list[str]) -> None:
    if words and words[0] == "inference":
        from experiments.bench_inference import InferenceConfig, bench_inference

        bench_inference(tyro.cli(InferenceConfig, args=words[1:], prog="namm bench inference"), console())
        return
    from experiments.bench import BenchConfig, bench

    bench(tyro.cli(BenchConfig, args=words, prog="namm bench"), console())


def _no_options(words: list[str], command: str) -> None:
    if words and words != ["--help"] and words != ["-h"]:
        raise ValueError(f"`namm {command}` takes no options, got {' '.join(words)}")


if __name__ == "__main__":
    sys.exit(main())
