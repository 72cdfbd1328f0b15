"""Folders and files that only their owner can read."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from mlflow_wandb_plugin.core.private_files import open_private, private_folder
from tests.support.modes import no_umask


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_folder_is_private_and_those_above_only_where_wanted(tmp_path: Path) -> None:
    """Folders above it belong to others, such as wandb, unless they are below one of ours."""
    with no_umask():
        private_folder(tmp_path / "a" / "b")
        private_folder(tmp_path / "c" / "d" / "e", below=tmp_path)
    assert (mode(tmp_path / "a"), mode(tmp_path / "a" / "b")) == (0o777, 0o700)
    assert {mode(tmp_path / name) for name in ("c", "c/d", "c/d/e")} == {0o700}


def test_only_folders_of_our_own_making_lose_rights(tmp_path: Path) -> None:
    """A folder that the user made, or a link to one, keeps its mode."""
    for name in ("ours", "users"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
    (tmp_path / "link").symlink_to(tmp_path / "users")
    private_folder(tmp_path / "ours", tighten=True)
    private_folder(tmp_path / "users")
    private_folder(tmp_path / "link", tighten=True)
    assert (mode(tmp_path / "ours"), mode(tmp_path / "users")) == (0o700, 0o755)


def test_a_file_in_a_folders_place_is_an_error(tmp_path: Path) -> None:
    """The caller says what cannot be written."""
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        private_folder(tmp_path / "file")


def test_a_file_is_private_and_no_link_is_followed(tmp_path: Path) -> None:
    """Reading and writing through a symbolic link both fail."""
    with no_umask(), open_private(tmp_path / "file", "w", encoding="utf-8") as file:
        file.write("text")
    assert mode(tmp_path / "file") == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for how in ("rb", "ab"):
        with pytest.raises(OSError, match="symbolic links"):
            open_private(tmp_path / "link", how)
