"""Folders of local files."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def local(tmp_path: Path) -> Path:
    folder = tmp_path / "local"
    folder.mkdir()
    return folder
