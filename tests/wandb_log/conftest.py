"""The real SDK, once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.environment import isolated
from tests.support.logging_child import LoggingChild, logging_child


@pytest.fixture(scope="package")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoggingChild]:
    """Runs logging programs through wandb, offline."""
    folder = tmp_path_factory.mktemp("sdk")
    with logging_child(isolated(folder), folder) as child:
        yield child
