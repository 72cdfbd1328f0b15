"""torchtune's own full_finetune_distributed, on CPUs: ``tune run --nproc_per_node 2`` takes this.

Three functions of torchtune ask an accelerator for its memory whatever the device is; the recipe
itself runs as it is shipped.
"""

from __future__ import annotations

import gc
import runpy
from pathlib import Path
from typing import Any

import torchtune
from torchtune import training


def _no_stats(**_: Any) -> dict[str, float]:
    return {}


def _say_nothing(*_: Any, **__: Any) -> None:
    return None


training.get_memory_stats = _no_stats
training.log_memory_stats = _say_nothing
training.cleanup_before_training = gc.collect

if __name__ == "__main__":
    installed = Path(torchtune.__file__).parents[1] / "recipes"
    runpy.run_path(str(installed / "full_finetune_distributed.py"), run_name="__main__")
