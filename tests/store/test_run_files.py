"""The kept content of a mirrored run's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_wandb_plugin.store import run_files
from mlflow_wandb_plugin.store.run_files import RunFiles


def test_files_that_may_change_are_copied(tmp_path: Path) -> None:
    """A hard link to a user's own file would show what is written into it later."""
    folder = tmp_path / "r.files"
    files = RunFiles(folder)
    file = tmp_path / "elsewhere" / "model.bin"
    file.parent.mkdir()
    file.write_bytes(b"before")
    kept = [folder / files.keep(file, stored) for stored in (False, True)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_files.tempfile, "gettempdir", lambda: str(tmp_path / "nowhere"))
        kept.append(folder / files.keep(file, False))
    file.unlink()
    assert [path.read_bytes() for path in kept] == [b"before"] * 3
    assert kept[1].stat().st_ino == kept[0].stat().st_ino != kept[2].stat().st_ino
