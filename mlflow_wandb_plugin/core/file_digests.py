"""Digests of files, as W&B writes them."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

_BLOCK = 1 << 20


def base64_md5(path: Path) -> str:
    """Return the MD5 of a file as W&B's manifests and file lists have it.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return base64.b64encode(digest.digest()).decode()
