"""The captions of one run's images, which MLflow has no place for: ``wandb/captions.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlflow_wandb_plugin.core.model import RowObjects
from mlflow_wandb_plugin.mapping.documents import CAPTIONS_FILE
from mlflow_wandb_plugin.targets.mlflow.files.media import IMAGE_TYPES, image_stem
from mlflow_wandb_plugin.targets.mlflow.files.uploads import Uploads


class Captions:
    """Collects captions by the path of MLflow's step image."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self._by_path: dict[str, str] = {}

    def clear(self) -> None:
        """Begin without the captions of earlier sessions."""
        self._by_path.clear()

    def add_row(self, row: RowObjects) -> None:
        """Take the captions of a row's images."""
        for path, value in row.values.items():
            if isinstance(value, Mapping) and value.get("_type") in IMAGE_TYPES:
                for key, caption in _captions(".".join(path), value):
                    self._by_path[f"images/{image_stem(key, row)}.png"] = caption

    def upload(self) -> None:
        """Upload the document, if there are captions."""
        if self._by_path:
            self._uploads.write_json(CAPTIONS_FILE, self._by_path)


def _captions(key: str, value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield key and caption of an image, or of each image of a list."""
    caption, listed = value.get("caption"), value.get("captions")
    if isinstance(caption, str) and caption:
        yield key, caption
    for index, one in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(one, str) and one:
            yield f"{key}/{index}", one
