"""Images inside of tables are files, in the form of MLflow's tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mlflow_wandb_plugin.core.model import ArtifactEntry, ArtifactRef, FileRef, RowObjects
from tests.targets.mlflow.writing import document, the_run, write

VALUE = {"_type": "table-file", "path": "media/table/t.table.json"}


def image_cell(path: str) -> dict[str, Any]:
    return {"_type": "image-file", "path": path, "format": "png"}


def table_of_row(folder: Path, data: list[list[Any]]) -> FileRef:
    local = folder / "row.json"
    local.write_text(json.dumps({"columns": ["image", "n"], "data": data}))
    return FileRef(VALUE["path"], local)


def table_artifact(folder: Path, data: list[list[Any]], colour: str = "red") -> ArtifactRef:
    """What the SDK makes of a table: the table, and the images of its cells."""
    folder.mkdir()
    image, table = folder / "a.png", folder / "t.table.json"
    Image.new("RGB", (8, 6), colour).save(image)
    table.write_text(json.dumps({"columns": ["image", "n"], "data": data}))
    entries = (
        ArtifactEntry("media/images/a.png", "", 0, image),
        ArtifactEntry("t.table.json", "", 0, table),
    )
    return ArtifactRef("run_table", f"run-r1-{folder.name}", "", folder.name, entries=entries)


@pytest.mark.parametrize("artifact_first", [True, False])
def test_an_image_of_a_cell_is_a_file(
    fresh_store: str, tmp_path: Path, artifact_first: bool
) -> None:
    """A PNG and a small WebP, which the cell names; whichever of row and artifact comes first."""
    artifact = table_artifact(tmp_path / "t", [[image_cell("media/images/a.png"), 1]])
    items = [table_of_row(tmp_path, [["Image", 1]]), RowObjects(4, 9, {("t",): VALUE})]
    write(fresh_store, *([artifact, *items] if artifact_first else [*items, artifact]))
    run = the_run(fresh_store, tmp_path / "all")
    shown = document(fresh_store, run, "tables/t/step_4.json", tmp_path)
    assert shown["data"] == [
        [
            {
                "type": "image",
                "filepath": "tables/t/step_4/0_0.png",
                "compressed_filepath": "tables/t/step_4/0_0.webp",
            },
            1,
        ]
    ]
    assert {"tables/t/step_4/0_0.png", "tables/t/step_4/0_0.webp"} <= run.artifacts.keys()
    assert json.loads(run.tags["mlflow.wandb.rewrites"]) == {}


def test_the_artifact_with_the_same_values_is_taken(fresh_store: str, tmp_path: Path) -> None:
    """Not one of another step, which has other values in the cells without images."""
    cell = image_cell("media/images/a.png")
    right = table_artifact(tmp_path / "right", [[cell, 1]], "red")
    wrong = table_artifact(tmp_path / "wrong", [[cell, 2]], "blue")
    row = RowObjects(4, 9, {("t",): VALUE})
    write(fresh_store, right, wrong, table_of_row(tmp_path, [["Image", 1]]), row)
    the_run(fresh_store, tmp_path / "all")
    (stored,) = (tmp_path / "all").rglob("0_0.png")
    with Image.open(stored) as image:
        assert image.convert("RGB").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("path", ["media/images/gone.png", "../../etc/passwd", "t.table.json"])
def test_an_image_that_is_not_there_leaves_the_word(
    fresh_store: str, tmp_path: Path, path: str
) -> None:
    """A cell names a file of its artifact and no other; what is no image is not shown."""
    artifact = table_artifact(tmp_path / "t", [[image_cell(path), 1]])
    row = RowObjects(4, 9, {("t",): VALUE})
    write(fresh_store, artifact, table_of_row(tmp_path, [["Image", 1]]), row)
    run = the_run(fresh_store)
    shown = document(fresh_store, run, "tables/t/step_4.json", tmp_path)
    assert shown["data"] == [["Image", 1]]
    assert run.tags["mlflow.wandb.state"] == "complete"


def test_a_table_of_words_is_shown(fresh_store: str, tmp_path: Path) -> None:
    """A text may be the word Image."""
    row = RowObjects(4, 9, {("t",): VALUE})
    write(fresh_store, table_of_row(tmp_path, [["Image", 1]]), row)
    run = the_run(fresh_store)
    shown = document(fresh_store, run, "tables/t/step_4.json", tmp_path)
    assert shown["data"] == [["Image", 1]]
