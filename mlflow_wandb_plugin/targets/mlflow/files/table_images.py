"""Images inside of tables, as `mlflow.log_table` writes them.

The table of a row has only the word ``Image`` in such a cell. The SDK logs the table with its
images as an artifact of the type ``run_table``, too: there the cell names a file of the artifact.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from mlflow_wandb_plugin.core.model import ArtifactRef

TYPE = "run_table"
WORD = "Image"
IMAGE_TYPE = "image-file"
SUFFIX = ".table.json"
MOST_TABLES = 1_000
"""Artifacts of tables whose files are remembered."""
MOST_IMAGES = 1_000
"""Images of one table that are shown."""

Copy: TypeAlias = Callable[[Path, str], Mapping[str, str]]
"""Prepares the image of a cell to be uploaded, given its file and a name that is unique in the
table; returns MLflow's description of it."""


class TableImages:
    """The files of one run's table artifacts."""

    def __init__(self) -> None:
        self._files: list[dict[str, Path]] = []

    def add(self, artifact: ArtifactRef) -> None:
        """Take the files of an artifact, if it is one of a table with images."""
        if artifact.type == TYPE and len(artifact.entries) > 1:
            files = {entry.path: entry.local for entry in artifact.entries if entry.local}
            self._files = [*self._files[1 - MOST_TABLES :], files]

    def fill(self, table: Mapping[str, Any], copy: Copy) -> bool:
        """Put images into the cells of a row's table; return whether all of it is known.

        The artifact of the table is the one that has the same values in all other cells.
        """
        data: list[list[Any]] = table["data"]
        if not any(cell == WORD for row in data for cell in row):
            return True
        for files in reversed(self._files):
            with_images = _table(files)
            if with_images is not None and _same(data, with_images):
                _copy_images(data, with_images, files, copy)
                return True
        return False


def _table(files: Mapping[str, Path]) -> list[list[Any]] | None:
    """The cells of an artifact's table; None if it has no readable one."""
    local = next((local for path, local in files.items() if path.endswith(SUFFIX)), None)
    if local is None:
        return None
    try:
        data = json.loads(local.read_text(encoding="utf-8"))["data"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return data if isinstance(data, list) and all(isinstance(row, list) for row in data) else None


def _same(data: Sequence[Sequence[Any]], other: Sequence[Sequence[Any]]) -> bool:
    return len(data) == len(other) and all(
        len(row) == len(there)
        and all(
            _is_image(cell) if shown == WORD else shown == cell or isinstance(cell, (dict, list))
            for shown, cell in zip(row, there, strict=True)
        )
        for row, there in zip(data, other, strict=True)
    )


def _is_image(cell: Any) -> bool:
    return isinstance(cell, Mapping) and cell.get("_type") == IMAGE_TYPE


def _copy_images(
    data: list[list[Any]], other: Sequence[Sequence[Any]], files: Mapping[str, Path], copy: Copy
) -> None:
    copied = 0
    for number, row in enumerate(data):
        for column, shown in enumerate(row):
            cell = other[number][column]
            local = files.get(str(cell.get("path"))) if shown == WORD else None
            if local is not None and copied < MOST_IMAGES:
                # An image that cannot be read leaves the word in its cell.
                with contextlib.suppress(Exception):
                    row[column] = dict(copy(local, f"{number}_{column}"))
                    copied += 1
