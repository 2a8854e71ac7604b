"""Code completion after LongBench's `lcc` (LCC, arXiv 2306.14893), with its metric: the next line of a Python file.

LCC's files come from GitHub; here they are those of packages that this library asks for, so that the task needs neither
hub nor files. Equal versions of the packages (`constraints.txt`) give equal samples; other versions give others.
Differences from LCC: one language, the context stands just before the line, nothing is cut out of its middle, the line
is a whole statement (LCC takes any line of code), and no words stand around the code, which ends with the line before:
behind LongBench's "Next line of code:" small models write comments. Files resemble each other across splits, less so
across packages: `code-completion/scipy` and the like are tasks of one package each.
"""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, get_args

from transformers import PreTrainedTokenizerBase

from experiments.tasks.fitting import largest
from experiments.tasks.metrics.longbench import code_similarity
from experiments.tasks.sample import Sample, Split, generator, held_in

PACKAGES = ("jax", "matplotlib", "scipy", "transformers")
LEAST_ANSWER = 16  # characters: shorter lines, such as `else:` or `return x`, tell little
TOKEN_CHARACTERS = 6  # a token has fewer characters of code on average in any tokenizer
ONE_LINE = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return, ast.Raise, ast.Assert, ast.Expr)


class Source(NamedTuple):
    """A file and its size in bytes."""

    path: Path
    size: int


@dataclass(frozen=True)
class CodeCompletion:
    """As many lines as fit before a line that is asked for; the last of them stands behind the context."""

    packages: tuple[str, ...] = PACKAGES

    @property
    def name(self) -> str:
        return "/".join(("code-completion", *(self.packages if self.packages != PACKAGES else ())))

    def make(self, tokenizer: PreTrainedTokenizerBase, length: int, split: Split, index: int) -> Sample:
        """Sample `index` of `split`; ValueError if no file is as long as `length`, or `length` cannot hold a line."""
        rng = generator(self.name, length, split, index)
        reach = TOKEN_CHARACTERS * length
        found = [source for source in sources(self.packages)[split] if source.size > reach]
        for which in rng.permutation(len(found)):
            lines = found[int(which)].path.read_text(encoding="utf-8").split("\n")
            if places := statements(lines, reach):
                asked = places[int(rng.integers(len(places)))]
                break
        else:
            raise ValueError(
                f"{self.name}: length {length} is too long, no file of {', '.join(self.packages)} has as much code "
                "before a line; use a shorter length"
            )

        last = max(place for place in range(asked) if lines[place].strip())

        def build(size: int) -> Sample:
            return Sample(
                task=self.name,
                context="".join(f"{line}\n" for line in lines[last - size : last]),
                question=lines[last],
                prefix="",
                answers=(lines[asked],),
                target="\n" * (asked - last) + lines[asked],
                metric="code_similarity",
                max_new_tokens=64,
                chat=False,
            )

        return largest(tokenizer, length, build, 1, last)


@cache
def sources(packages: tuple[str, ...]) -> Mapping[Split, Sequence[Source]]:
    """These packages' Python files by split, in the order of their names; tests left out."""
    named: dict[str, Source] = {}
    for package in packages:
        spec = find_spec(package)
        assert spec and spec.submodule_search_locations, package  # the library itself needs it
        root = Path(spec.submodule_search_locations[0])
        for path in root.rglob("*.py"):
            name = f"{package}/{path.relative_to(root).as_posix()}"
            if "/tests/" not in name:
                named[name] = Source(path, path.stat().st_size)
    return {split: [named[name] for name in sorted(named) if held_in(name, split)] for split in get_args(Split)}


def statements(lines: Sequence[str], reach: int) -> list[int]:
    """Places of statements that fill a line each, with more than `reach` characters before, that the metric takes.

    It skips lines with a backtick, `#` or `//`, as LongBench's does.
    """
    before = [0]
    for line in lines:
        before.append(before[-1] + len(line) + 1)
    nodes = [node for node in ast.walk(ast.parse("\n".join(lines))) if isinstance(node, ONE_LINE)]
    return sorted(
        node.lineno - 1
        for node in nodes
        if node.lineno == node.end_lineno and before[node.lineno - 1] > reach and _alone(lines[node.lineno - 1], node)
    )


def _alone(line: str, node: ast.stmt) -> bool:
    code = line.encode()[node.col_offset : node.end_col_offset].decode()
    text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return line.strip() == code and len(code) >= LEAST_ANSWER and not text and code_similarity(line, (line,)) == 1


CODE = (CodeCompletion(), *(CodeCompletion((package,)) for package in PACKAGES))
