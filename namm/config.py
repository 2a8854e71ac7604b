"""What a memory is, as plain data: validates itself, goes to JSON and back without loss."""

import dataclasses
import typing
from dataclasses import dataclass, field
from itertools import accumulate
from reprlib import repr as brief
from typing import Any, Literal

from namm.features import SpectrumConfig, blocks
from namm.network import ScorerName
from namm.selection import SelectionConfig

Relative = Literal["held", "read"]
BUDGET_AXES = {"equal": 0, "layer": 1, "head": 2}  # layers, heads
LIMIT = 2**31  # of any number in a configuration: positions and sizes are 32-bit integers

@dataclass(frozen=True)
class ScorerConfig:
    """The network that turns features into scores.

    kind: "bam" (the paper's), "linear" or "mlp". hidden: BAM head size or MLP width.
    sets: how many sets of parameters there are: () one for every layer and head, (layers,) one a layer, (layers, heads)
        one a KV head. Several serve hosts of that size alone.
    start: initial output bias. Above the threshold (the default) every candidate of a first population keeps nearly
        everything; the original's 0.0 starts on the threshold, where small steps drop most of the cache.
    """

    kind: ScorerName = "bam"
    hidden: int = 32
    sets: tuple[int, ...] = ()
    start: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in typing.get_args(ScorerName):
            raise ValueError(f"scorer.kind is {self.kind!r}; expected one of {', '.join(typing.get_args(ScorerName))}")
        if self.hidden < 1:
            raise ValueError(f"scorer.hidden is {self.hidden}; expected 1 or more")
        if len(self.sets) > 2 or min(self.sets, default=1) < 1:
            raise ValueError(f"scorer.sets is {self.sets}; expected (), (layers,) or (layers, heads)")


@dataclass(frozen=True)
class MemoryConfig:
    """A Neural Attention Memory Model and how it is used.

    features: names of feature blocks, in the order the scorer sees them. relative: what a token's key and value stand
    relative to in them, the tokens that its head holds ("held") or all that it has read ("read"), whose statistics no
    eviction changes. interval: tokens between two updates, a multiple of the spectrum's hop.
    """

    features: tuple[str, ...] = ("recency", "spectrum")
    relative: Relative = "held"
    spectrum: SpectrumConfig = field(default_factory=SpectrumConfig)
    scorer: ScorerConfig = field(default_factory=ScorerConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    interval: int = 512

    def __post_init__(self) -> None:
        known = blocks(self.spectrum)
        unknown = [name for name in self.features if name not in known]
        if unknown or not self.features:
            named = f"features are {brief(self.features)}, of which {brief(unknown)} are unknown"
            raise ValueError(f"{named}; expected some of {', '.join(known)}")
        if len(set(self.features)) != len(self.features):
            raise ValueError(f"features are {brief(self.features)}; each block may be named once")
        if self.relative not in typing.get_args(Relative):
            raise ValueError(f"relative is {self.relative!r}; expected one of {', '.join(typing.get_args(Relative))}")
        check_interval(self.interval, self.spectrum.hop)
        if len(self.budgets) < BUDGET_AXES[self.selection.budgets]:
            raise ValueError(
                f"selection.budgets is {self.selection.budgets!r} and scorer.sets {self.scorer.sets}; expected sets of "
                "parameters for every layer (\"layer\") or every head (\"head\") beside it"
            )

    @property
    def budgets(self) -> tuple[int, ...]:
        """The shape of the shares that layers or heads have in the budget; () where they have none."""
        return self.scorer.sets[: BUDGET_AXES[self.selection.budgets]]

    @property
    def width(self) -> int:
        """Features per slot."""
        known = blocks(self.spectrum)
        return sum(known[name].width for name in self.features)

    @property
    def columns(self) -> dict[str, slice]:
        """Where each block stands among a slot's features."""
        known = blocks(self.spectrum)
        ends = accumulate(known[name].width for name in self.features)
        return {name: slice(end - known[name].width, end) for name, end in zip(self.features, ends, strict=True)}


def check_interval(interval: int, hop: int) -> None:
    """An update window holds whole hops of the spectrum."""
    if interval < hop or interval % hop:
        raise ValueError(f"interval is {interval}; expected a positive multiple of the spectrum's hop, {hop}")


def to_json(config: Any) -> dict[str, Any]:
    """A config dataclass as plain JSON values."""
    return dataclasses.asdict(config)


def from_json(kind: type, values: Any, where: str = "config") -> Any:
    """Rebuild a config dataclass; an unknown, missing or wrongly typed field is an error that names it."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} is {brief(values)}; expected an object with the fields of {kind.__name__}")
    fields = {f.name for f in dataclasses.fields(kind)}
    if set(values) != fields:
        unknown, missing = sorted(set(values) - fields), sorted(fields - set(values))
        names = f"unknown fields {brief(unknown)}, missing fields {missing}"
        raise ValueError(f"{where}: {names}; expected {sorted(fields)}")
    hints = typing.get_type_hints(kind)
    read = {name: _value(hints[name], value, f"{where}.{name}") for name, value in values.items()}
    try:
        return kind(**read)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type, hint), value, where)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} is {brief(value)}; expected a list")
        inner = typing.get_args(hint)[0]
        return tuple(_value(inner, item, f"{where}[{i}]") for i, item in enumerate(value))
    if typing.get_origin(hint) is typing.Literal:
        allowed: tuple[Any, ...] = typing.get_args(hint)
    else:
        allowed = ()
        kinds = typing.get_args(hint) or (hint,)
        if type(value) in (int, float) and not abs(value) < LIMIT:  # not a number fails this too
            raise ValueError(f"{where} is {brief(value)}; expected a number below {LIMIT}")
        numeric = float in kinds and isinstance(value, int) and not isinstance(value, bool)
        right = any(type(value) is k for k in kinds)
        if numeric and not right:
            return float(value)
        if not right:
            names = " or ".join(getattr(k, "__name__", str(k)) for k in kinds)
            raise ValueError(f"{where} is {brief(value)}; expected {names}")
    if allowed and value not in allowed:
        raise ValueError(f"{where} is {brief(value)}; expected one of {allowed}")
    return value
