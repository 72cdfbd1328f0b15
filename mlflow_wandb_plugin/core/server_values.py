"""What W&B's server keeps of a config or summary.

It leaves out empty objects and values that JSON has no number for, and gives large integers back as
floats. A resumed run gets its config from there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mlflow_wandb_plugin.core.model import as_float

EXACT_INTEGERS = 2**53
"""The size up to which a float holds every integer."""


def is_kept_as(logged: Any, kept: Any) -> bool:
    """Whether ``kept`` is what W&B's server keeps of the value ``logged``."""
    if isinstance(logged, Mapping) and isinstance(kept, Mapping):
        here = all(key in logged and is_kept_as(logged[key], kept[key]) for key in kept)
        return here and all(_is_nothing(logged[key]) for key in logged.keys() - kept.keys())
    if isinstance(logged, list) and isinstance(kept, list):
        pairs = zip(logged, kept, strict=False)
        return len(logged) == len(kept) and all(is_kept_as(*pair) for pair in pairs)
    if _is_nothing(logged) or _is_nothing(kept):
        return _is_nothing(logged) and _is_nothing(kept)
    if _is_large(logged) and _is_large(kept):
        return as_float(logged) == as_float(kept)
    return type(logged) is type(kept) and bool(logged == kept)


def _is_nothing(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_nothing, value.values()))
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_large(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(as_float(value)) >= EXACT_INTEGERS
