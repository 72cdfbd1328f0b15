"""Find out without importing wandb whether it could find an API key.

Only the forwarder can be certain, but a short script ends before the forwarder has started.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

NOT_ONLINE = ("offline", "dryrun", "disabled")


@functools.cache
def is_missing() -> bool:
    """Whether no variable, netrc file or settings file is there that may have a key.

    False in modes that need no key.
    """
    variable = os.environ.get
    if variable("WANDB_API_KEY") or variable("WANDB_IDENTITY_TOKEN_FILE"):
        return False
    if variable("WANDB_MODE") in NOT_ONLINE:
        return False
    return not any(path.expanduser().exists() for path in _files_with_keys())


def _files_with_keys() -> list[Path]:
    config = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    folder = Path(os.environ.get("WANDB_DIR") or ".")
    return [
        Path(os.environ.get("NETRC") or "~/.netrc"),
        Path("~/_netrc"),
        Path(config) / "settings",
        folder / "wandb" / "settings",
        folder / ".wandb" / "settings",
    ]
