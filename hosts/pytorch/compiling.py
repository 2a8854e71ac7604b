"""What `torch.compile` leaves alone: memories change the shape of the cache at every turn.

Of an attached model it gets the model's own code, between one attention and the next.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

F = TypeVar("F", bound=Callable[..., Any])


def uncompiled(function: F) -> F:
    """Run it, and all that it calls, as it is written."""
    return cast(F, torch.compiler.disable(function))


def uncompiled_itself(function: F) -> F:
    """Run it as it is written; what it calls may be compiled."""
    return cast(F, torch.compiler.disable(function, recursive=False))
