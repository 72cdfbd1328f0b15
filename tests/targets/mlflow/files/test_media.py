"""Images and tables are where MLflow's UI looks for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mlflow_wandb_plugin.core.model import FileRef, RowObjects
from mlflow_wandb_plugin.targets.mlflow.files.media import render
from tests.targets.mlflow.writing import end, opened, run_info, the_run


def image_file(folder: Path, name: str = "a.png", mode: str = "RGB") -> Path:
    path = folder / name
    Image.new(mode, (64, 48)).save(path)
    return path


def image_format(path: Path) -> str | None:
    with Image.open(path) as image:
        return image.format


def image_value(path: str = "media/images/a.png") -> dict[str, Any]:
    return {"_type": "image-file", "path": path, "width": 64, "height": 48}


def table_file(folder: Path) -> Path:
    path = folder / "t.table.json"
    path.write_text(json.dumps({"columns": ["a", 1], "data": [[1, "x"], [None, "y"]]}))
    return path


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp"])
def test_an_image_becomes_a_png_and_a_small_webp(tmp_path: Path, name: str) -> None:
    """The names are MLflow's names of step images, and the same each time."""
    local = {"media/images/a.png": image_file(tmp_path, name)}
    row = RowObjects(3, 5_000, image_value())
    shown = render("val/pred", row, local, tmp_path)
    targets = [target for _, target in shown.files]
    assert targets[0].startswith("images/val~pred+step+3+timestamp+5000+")
    assert [Path(target).suffix for target in targets] == [".png", ".webp"]
    assert [image_format(path) for path, _ in shown.files] == ["PNG", "WEBP"]
    assert [target for _, target in render("val/pred", row, local, tmp_path).files] == targets
    assert shown.tags == {"mlflow.loggedImages": "True"}


def test_a_list_of_images_has_a_name_each(tmp_path: Path) -> None:
    """Each image of a list gets its own number."""
    files = {name: image_file(tmp_path, f"{name}.png") for name in ("x", "y")}
    value = {"_type": "images/separated", "filenames": ["x", "y"], "count": 2}
    targets = [t for _, t in render("k", RowObjects(0, 1, value), files, tmp_path).files]
    assert len(set(targets)) == 4
    assert {target.split("+")[0] for target in targets} == {"images/k~0", "images/k~1"}


def test_a_table_becomes_what_pandas_writes(tmp_path: Path) -> None:
    """A table is one file per step in pandas's split orientation, and is listed in a tag."""
    value = {"_type": "table-file", "path": "media/table/t.table.json"}
    local = {value["path"]: table_file(tmp_path)}
    shown = render("eval/rows", RowObjects(7, 1, value), local, tmp_path)
    ((path, target),) = shown.files
    assert target == "tables/eval/rows/step_7.json"
    assert json.loads(path.read_text()) == {"columns": ["a", "1"], "data": [[1, "x"], [None, "y"]]}
    assert shown.tables == [{"path": target, "type": "table"}]


@pytest.mark.parametrize(
    "value",
    [
        image_value("media/images/gone.png"),
        {"_type": "image-file"},
        {"_type": "table-file", "path": "media/bad.json"},
        {"_type": "images/separated", "filenames": 3},
        {"_type": "table-file", "path": "media/odd.json"},
        image_value("media/bad.json"),
    ],
)
def test_media_that_cannot_be_shown_is_counted(
    fresh_store: str, tmp_path: Path, value: dict[str, Any]
) -> None:
    """A bad image or table does not stop the run; its value is in the history file."""
    bad, odd = tmp_path / "bad.json", tmp_path / "odd.json"
    bad.write_text("not json")
    odd.write_text("[1, 2]")
    info = run_info()
    with opened(fresh_store, info) as writer:
        writer.add(FileRef("media/bad.json", bad))
        writer.add(FileRef("media/odd.json", odd))
        writer.add(RowObjects(1, 10, {("pic",): value}))
        end(writer, info)
    run = the_run(fresh_store, tmp_path / "artifacts")
    assert json.loads(run.tags["mlflow.wandb.rewrites"]) == {"media_not_shown": 1}
    assert "wandb/history.jsonl" in run.artifacts
    assert run.tags["mlflow.wandb.state"] == "complete"


def test_more_tables_than_a_tag_can_list(fresh_store: str, tmp_path: Path) -> None:
    """Tables that the tag has no space for are counted."""
    info, table = run_info(), table_file(tmp_path)
    value = {"_type": "table-file", "path": "media/t.json"}
    with opened(fresh_store, info) as writer:
        writer.add(FileRef("media/t.json", table))
        for step in range(250):
            writer.add(RowObjects(step, step, {("t" * 40,): value}))
        end(writer, info)
    run = the_run(fresh_store)
    listed = json.loads(run.tags["mlflow.loggedArtifacts"])
    rewrites = json.loads(run.tags["mlflow.wandb.rewrites"])
    assert rewrites == {"table_not_listed": 250 - len(listed)}
    assert len(listed) > 50
