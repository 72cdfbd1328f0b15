"""Whether wandb could find an API key at all, asked without importing wandb.

The forwarder knows for certain; but a short script is over before it has begun.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

NOT_ONLINE = ("offline", "dryrun", "disabled")


@functools.cache
def is_missing() -> bool:
    """Nothing is there from which wandb takes a key: neither its variables, nor a netrc file, nor
    a file of settings. False where only wandb could tell, and where W&B is not to be reached."""
    said = os.environ.get
    if said("WANDB_API_KEY") or said("WANDB_IDENTITY_TOKEN_FILE"):
        return False
    if said("WANDB_MODE") in NOT_ONLINE:
        return False
    return not any(path.expanduser().exists() for path in _files())


def _files() -> list[Path]:
    config = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    folder = Path(os.environ.get("WANDB_DIR") or ".")
    return [
        Path(os.environ.get("NETRC") or "~/.netrc"),
        Path("~/_netrc"),
        Path(config) / "settings",
        folder / "wandb" / "settings",
        folder / ".wandb" / "settings",
    ]
