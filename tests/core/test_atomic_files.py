"""Copies and links of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_wandb_plugin.core import atomic_files
from mlflow_wandb_plugin.core.atomic_files import copy_file, link_or_copy


def test_a_copy_is_independent_of_its_source(tmp_path: Path) -> None:
    """What is written into the source later, in place, does not show in the copy."""
    source, target = tmp_path / "source", tmp_path / "target"
    content = bytes(range(256)) * 10_000
    source.write_bytes(content)
    copy_file(source, target)
    with open(source, "r+b") as file:
        file.write(b"later")
    assert target.read_bytes() == content


@pytest.mark.parametrize("shares", [True, False])
def test_the_file_system_is_asked_to_share_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shares: bool
) -> None:
    """A file system that shares them has nothing more to do; else the content is copied."""
    asked: list[int] = []

    def ioctl(target: int, request: int, source: int) -> None:
        asked.append(request)
        if not shares:
            raise OSError(95, "Operation not supported")

    monkeypatch.setattr(atomic_files.fcntl, "ioctl", ioctl)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"content")
    copy_file(source, target)
    assert asked == [0x40049409]
    assert target.read_bytes() == (b"" if shares else b"content")


def test_a_file_that_cannot_be_linked_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system has no links, or the source is on another one."""

    def no_links(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(atomic_files.os, "link", no_links)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"content")
    link_or_copy(source, target)
    assert target.read_bytes() == b"content"
    assert target.stat().st_ino != source.stat().st_ino
