"""An MLflow run's images and tables as media values of W&B's history.

The values have the form in which the wandb SDK logs ``wandb.Image`` and ``wandb.Table``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from mlflow_wandb_plugin.core.model import FileRef
from mlflow_wandb_plugin.errors import SourceError
from mlflow_wandb_plugin.mapping.names import safe_path

FOLDER = "media"
"""The folder of the files of media values among the W&B run's files, as wandb has it."""
_BLOCK = 1 << 20


class Media(NamedTuple):
    """A media value and its file."""

    value: dict[str, Any]
    file: FileRef


def image(key: str, row: int, local: Path, folder: str = FOLDER) -> Media:
    """Return the image in ``local`` as the value of ``key`` in row ``row``.

    Args:
        folder: of its file in the W&B run.

    Raises:
        SourceError: Pillow is missing or cannot read it.
    """
    try:
        from PIL import Image

        with Image.open(local) as opened:
            width, height = opened.size
    except Exception as error:
        raise SourceError(f"image not shown ({type(error).__name__})") from error
    digest, suffix = _sha256(local), local.suffix
    file = FileRef(_path(f"{folder}/images", key, row, digest, suffix), local)
    described = {"width": width, "height": height, "format": suffix[1:]}
    return Media(_value("image-file", file, digest) | described, file)


def table(
    key: str,
    row: int,
    columns: list[str],
    data: list[list[Any]],
    local: Path,
    folder: str = FOLDER,
) -> Media:
    """Return a table as the value of ``key`` in row ``row``.

    Args:
        local: its file, which is written.
        folder: as for `image`.
    """
    # As wandb writes it, so that the file has the same digest as that of a live mirror.
    text = json.dumps({"columns": columns, "data": data}, separators=(",", ":"))
    local.write_text(text, encoding="utf-8")
    digest = _sha256(local)
    file = FileRef(_path(f"{folder}/table", key, row, digest, ".table.json"), local)
    counted = {"ncols": len(columns), "nrows": len(data), "log_mode": "IMMUTABLE"}
    return Media(_value("table-file", file, digest) | counted, file)


def _value(kind: str, file: FileRef, digest: str) -> dict[str, Any]:
    size = file.local.stat().st_size
    return {"_type": kind, "path": file.path, "sha256": digest, "size": size}


def _path(folder: str, key: str, row: int, digest: str, suffix: str) -> str:
    return safe_path(f"{folder}/{key}_{row}_{digest[:20]}{suffix}")


def _sha256(local: Path) -> str:
    digest = hashlib.sha256()
    with open(local, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
