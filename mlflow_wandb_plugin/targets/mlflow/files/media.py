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

from mlflow_wandb_plugin.core.model import ArtifactRef, FileRef, Key, RowObjects
from mlflow_wandb_plugin.mapping.names import Limits, safe_path
from mlflow_wandb_plugin.targets.mlflow.files.table_images import TableImages
from mlflow_wandb_plugin.targets.mlflow.files.uploads import Uploads

TABLES_TAG = "mlflow.loggedArtifacts"
IMAGE_TYPES = ("image-file", "images/separated", "images")
SHOWN = (*IMAGE_TYPES, "table-file")
_NAMESPACE = uuid.UUID("6f1c2c52-0d0f-5c0e-9a53-6d6c666c6f77")


class RunMedia:
    """Uploads copies of one run's images and tables where MLflow's UI looks for them.

    Attributes:
        tags: tags that the run needs so that MLflow shows the media.
        files: local files of the run by their path in it.
        lacking_images: paths of tables whose images are not known here.
    """

    def __init__(self, uploads: Uploads, tags: Mapping[str, str]) -> None:
        self.tags: dict[str, str] = {}
        self._uploads = uploads
        self._rewrites = uploads.losses.rewrites
        self.files: dict[str, Path] = {}
        self.lacking_images: set[str] = set()
        self._values: list[tuple[str, RowObjects]] = []
        self._table_images = TableImages()
        self._tables: list[dict[str, str]] = _listed(tags.get(TABLES_TAG, "[]"))

    def add_file(self, ref: FileRef) -> None:
        """Take a file of the run, which may be the file of a media value."""
        self.files[ref.path] = ref.local

    def add_row(self, row: RowObjects) -> None:
        """Take the media values of a row; their files may come later."""
        for key, value in row.values.items():
            if isinstance(value, dict) and value.get("_type") in SHOWN:
                self._values.append((".".join(key), RowObjects(row.step, row.timestamp_ms, value)))

    def list_files(self, values: Mapping[Key, Mapping[str, Any]]) -> None:
        """Let MLflow show images and tables that are files of the run already: of a table, the key
        is its path."""
        for key, value in values.items():
            table = {"path": safe_path(".".join(key)), "type": "table"}
            if value["_type"] in IMAGE_TYPES:
                self.tags["mlflow.loggedImages"] = "True"
            elif table not in self._tables:
                self._tables.append(table)

    def add_artifact(self, artifact: ArtifactRef) -> None:
        """Take an artifact, which may have the images of a table."""
        self._table_images.add(artifact)

    def upload(self, all_of_it: bool) -> None:
        """Upload the media values that were added.

        Args:
            all_of_it: also tables whose images have not come.
        """
        values, self._values = self._values, []
        for key, row in values:
            self._show(key, row, all_of_it)
        if self._tables:
            self.tags[TABLES_TAG] = json.dumps(self._listed_tables())

    def _show(self, key: str, row: RowObjects, all_of_it: bool) -> None:
        try:
            shown = render(key, row, self.files, self._uploads.folder, self._table_images)
        except Exception:
            # Whatever is wrong with an image or table: its file and its value are written anyway.
            self._rewrites["media_not_shown"] += 1
            return
        if shown.lacks_images and not all_of_it:
            self._values.append((key, row))
            return
        if shown.lacks_images:
            self.lacking_images.update(target for _, target in shown.files)
        for local, target in shown.files:
            self._uploads.upload(local, target, "media_missing")
        self._tables.extend(table for table in shown.tables if table not in self._tables)
        self.tags.update(shown.tags)

    def _listed_tables(self) -> list[dict[str, str]]:
        """As many tables as fit into MLflow's tag; its UI does not show the others."""
        limit = Limits.installed().tag_value
        listed = list(self._tables)
        while len(json.dumps(listed)) > limit:
            listed.pop()
        self._rewrites["table_not_listed"] = len(self._tables) - len(listed)
        return listed


def _listed(tag: str) -> list[dict[str, str]]:
    """Read the tag that lists tables for MLflow's UI; one that is damaged is written anew."""
    try:
        tables = json.loads(tag)
    except ValueError:
        return []
    return tables if isinstance(tables, list) else []


@dataclass
class Shown:
    """Files to upload, as (local, target), and the tags that make MLflow look at them;
    ``lacks_images`` says that a table has images whose files have not come."""

    files: list[tuple[Path, str]] = field(default_factory=list)
    tables: list[dict[str, str]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    lacks_images: bool = False


def render(
    key: str,
    row: RowObjects,
    local: Mapping[str, Path],
    spool: Path,
    table_images: TableImages | None = None,
) -> Shown:
    """Convert one media value: ``row.values`` is W&B's typed value, ``local`` has files by path.
    Raises any error if it cannot be shown (no file, no Pillow, …)."""
    value: Any = row.values
    shown = Shown()
    if value["_type"] == "table-file":
        _table(shown, key, row, local[value["path"]], spool, table_images or TableImages())
    elif value["_type"] == "image-file":
        _image(shown, key, row, local[value["path"]], spool)
    else:
        for index, path in enumerate(value["filenames"]):
            _image(shown, f"{key}/{index}", row, local[path], spool)
    return shown


def _image(shown: Shown, key: str, row: RowObjects, local: Path, spool: Path) -> None:
    """MLflow's image with a step: a PNG and a small WebP, as MlflowClient.log_image names them.
    Its uuid is derived from key, step and time: an image that is written again overwrites
    itself."""
    folder = Path(tempfile.mkdtemp(dir=spool))
    stem = image_stem(key, row)
    png, webp = folder / f"{stem}.png", folder / f"{stem}+compressed.webp"
    _convert(local, png, webp)
    shown.files += [(png, f"images/{png.name}"), (webp, f"images/{webp.name}")]
    shown.tags["mlflow.loggedImages"] = "True"


def image_stem(key: str, row: RowObjects) -> str:
    """The name, without its suffix, of a step image."""
    name = re.sub(r"[^a-zA-Z0-9_\-. ~]", "_", key.replace("/", "~"))
    unique = uuid.uuid5(_NAMESPACE, f"{key}\0{row.step}\0{row.timestamp_ms}")
    return f"{name}+step+{row.step}+timestamp+{row.timestamp_ms}+{unique}"


def _convert(local: Path, png: Path, webp: Path) -> None:
    """Write an image as a PNG, and a small one as a WebP."""
    from mlflow.tracking.multimedia import compress_image_size
    from PIL import Image

    with Image.open(local) as image:
        if image.format == "PNG":
            shutil.copyfile(local, png)
        else:
            image.save(png)
        compress_image_size(image).save(webp)


def _table(
    shown: Shown, key: str, row: RowObjects, local: Path, spool: Path, images: TableImages
) -> None:
    """MLflow's table: the JSON that pandas writes with orient="split", with images beside it."""
    table = json.loads(local.read_text(encoding="utf-8"))
    stem = f"tables/{safe_path(key)}/step_{row.step}"
    target = f"{stem}.json"
    folder = Path(tempfile.mkdtemp(dir=spool))

    def copy_image(image: Path, name: str) -> Mapping[str, str]:
        png, webp = folder / f"{name}.png", folder / f"{name}.webp"
        _convert(image, png, webp)
        paths = {"filepath": f"{stem}/{png.name}", "compressed_filepath": f"{stem}/{webp.name}"}
        shown.files.extend(zip((png, webp), paths.values(), strict=True))
        return {"type": "image", **paths}

    shown.lacks_images = not images.fill(table, copy_image)
    copy = folder / f"step_{row.step}.json"
    split = {"columns": [str(name) for name in table["columns"]], "data": table["data"]}
    copy.write_text(json.dumps(split), encoding="utf-8")
    shown.files.append((copy, target))
    shown.tables.append({"path": target, "type": "table"})
