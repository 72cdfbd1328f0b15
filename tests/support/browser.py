"""A browser of this machine, which shows a page to tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.environment import isolated
from tests.support.processes import run_command

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 30_000


def browser() -> str:
    """The program; without one the test is skipped."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser is installed here: none of {', '.join(BROWSERS)}")
    return found


def rendered(browser: str, url: str, folder: Path) -> str:
    """The page's document once its scripts have run. The browser reaches loopback only."""
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        f"--user-data-dir={folder / 'profile'}", "--window-size=1600,1200",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--virtual-time-budget={PATIENCE_MS}", "--dump-dom", url,
    ]  # fmt: skip
    return run_command(command, isolated(folder), folder, timeout=180).stdout
