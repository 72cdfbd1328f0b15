"""W&B's images and tables in the layouts that MLflow's UI shows."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.model import RowObjects
from mlflow_wandb_plugin.mapping.names import safe_path

IMAGE_TYPES = ("image-file", "images/separated", "images")
SHOWN = (*IMAGE_TYPES, "table-file")
_NAMESPACE = uuid.UUID("6f1c2c52-0d0f-5c0e-9a53-6d6c666c6f77")


@dataclass
class Shown:
    """Files to upload, as (local, target), and the tags that make MLflow look at them."""

    files: list[tuple[Path, str]] = field(default_factory=list)
    tables: list[dict[str, str]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)


def render(key: str, row: RowObjects, local: Mapping[str, Path], spool: Path) -> Shown:
    """Lay out one media value. ``row.values`` is W&B's typed value, ``local`` its files by path.

    Raises:
        OSError, ValueError, ImportError, KeyError: it cannot be shown (no file, no Pillow, …);
            the file itself is carried all the same.
    """
    value: Any = row.values
    shown = Shown()
    if value["_type"] == "table-file":
        _table(shown, key, row, local[value["path"]], spool)
    elif value["_type"] == "image-file":
        _image(shown, key, row, local[value["path"]], spool)
    else:
        for index, path in enumerate(value["filenames"]):
            _image(shown, f"{key}/{index}", row, local[path], spool)
    return shown


def _image(shown: Shown, key: str, row: RowObjects, local: Path, spool: Path) -> None:
    """MLflow's time-stepped image: a PNG and a small WebP under one deterministic name.

    Source: MlflowClient.log_image. Its random uuid is derived here from what the image is, so
    that writing it again overwrites it.
    """
    from mlflow.tracking.multimedia import compress_image_size
    from PIL import Image

    name = re.sub(r"[^a-zA-Z0-9_\-. ~]", "_", key.replace("/", "~"))
    unique = uuid.uuid5(_NAMESPACE, f"{key}\0{row.step}\0{row.timestamp_ms}")
    stem = f"{name}+step+{row.step}+timestamp+{row.timestamp_ms}+{unique}"
    folder = Path(tempfile.mkdtemp(dir=spool))
    png, webp = folder / f"{stem}.png", folder / f"{stem}+compressed.webp"
    with Image.open(local) as image:
        if image.format == "PNG":
            shutil.copyfile(local, png)
        else:
            image.save(png)
        compress_image_size(image).save(webp)
    shown.files += [(png, f"images/{png.name}"), (webp, f"images/{webp.name}")]
    shown.tags["mlflow.loggedImages"] = "True"


def _table(shown: Shown, key: str, row: RowObjects, local: Path, spool: Path) -> None:
    """MLflow's table: the JSON that pandas writes with orient="split"."""
    table = json.loads(local.read_text(encoding="utf-8"))
    target = f"tables/{safe_path(key)}/step_{row.step}.json"
    folder = Path(tempfile.mkdtemp(dir=spool))
    copy = folder / f"step_{row.step}.json"
    split = {"columns": [str(name) for name in table["columns"]], "data": table["data"]}
    copy.write_text(json.dumps(split), encoding="utf-8")
    shown.files.append((copy, target))
    shown.tables.append({"path": target, "type": "table"})
