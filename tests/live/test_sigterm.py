"""SIGTERM ends what is open before it does what it would have done."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.support.environment import isolated
from tests.support.processes import started, wait_until

SCRIPT = """
import signal, sys, threading, time
from pathlib import Path
from mlflow_wandb_plugin.live.sigterm import ended_on_sigterm, install_handler

if sys.argv[1] == "handler":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
install_handler()

def work():
    with ended_on_sigterm(lambda: Path("closed").touch()):
        pass
    with ended_on_sigterm(lambda: Path("ended").touch()):
        Path("works").touch()
        time.sleep(600)

threading.Thread(target=work, daemon=True).start()
time.sleep(600)
"""


@pytest.mark.parametrize(("before", "code"), [("handler", 7), ("default", -signal.SIGTERM)])
def test_open_blocks_of_all_threads_are_ended(tmp_path: Path, before: str, code: int) -> None:
    """Those that are left are not; then the handler from before is called, or the process dies."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with started([sys.executable, str(script), before], isolated(tmp_path), tmp_path) as process:
        wait_until((tmp_path / "works").exists, 60, "the thread works")
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, out + err
    assert (tmp_path / "ended").exists()
    assert not (tmp_path / "closed").exists()
