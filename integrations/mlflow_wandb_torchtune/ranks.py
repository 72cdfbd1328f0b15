"""Which of the processes of one training this is."""

from __future__ import annotations

import os
from collections.abc import Mapping


def global_rank(environ: Mapping[str, str] | None = None) -> int:
    """This process's rank among all of the training, 0 where there is only one.

    The process group of torch.distributed knows; before there is one, torchrun's variables do
    (both of them: ``RANK`` alone may be somebody else's).
    """
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return int(torch.distributed.get_rank())
    environ = os.environ if environ is None else environ
    rank = environ.get("RANK", "") if environ.get("WORLD_SIZE") else ""
    return int(rank) if rank.isdigit() else 0
