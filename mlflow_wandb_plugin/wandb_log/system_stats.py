"""Read W&B's samples of the machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlflow_wandb_plugin.core.model import as_float, flatten


def measured(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Yield the numbers of one measurement by name; older versions of wandb nest some."""
    leaves = flatten(value, (name,)) if isinstance(value, Mapping) else {(name,): value}
    for path, leaf in leaves.items():
        if isinstance(leaf, (int, float)):
            yield ".".join(path), as_float(leaf)
