"""Find the rank of this process in a distributed training."""

from __future__ import annotations

import os
from collections.abc import Mapping


def global_rank(environ: Mapping[str, str] | None = None) -> int:
    """Return this process's rank in the training, 0 if there is only one process.

    It is that of torch.distributed's process group, or before that exists, that of torchrun's
    variables. ``RANK`` without ``WORLD_SIZE`` may be set by another tool and is ignored.
    """
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return int(torch.distributed.get_rank())
    environ = os.environ if environ is None else environ
    rank = environ.get("RANK", "") if environ.get("WORLD_SIZE") else ""
    return int(rank) if rank.isdigit() else 0
