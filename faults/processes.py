"""Find the processes of a trial by the folder that is their home, and by what they run (Linux)."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

TRAINER, HELPER, CORE, SERVER = "trainer", "helper", "core", "server"


def pids_of(role: str, home: Path) -> list[int]:
    """Living helpers (`HELPER`) or wandb-cores (`CORE`) whose HOME is ``home``."""
    return [pid for pid in _at_home(home) if _role(pid) == role]


def send(pids: list[int], number: signal.Signals) -> int:
    """Send a signal to processes; returns how many got it."""
    sent = 0
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            sent += 1
    return sent


def resident_kib(pid: int) -> int:
    """Memory that a process has in RAM; 0 if it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    return 0


def _at_home(home: Path) -> list[int]:
    wanted, found = f"HOME={home}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def _role(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    if os.path.basename(command[0]) == b"wandb-core":
        return CORE
    if any(part.startswith(b"mlflow_wandb_plugin.replicator") for part in command[1:3]):
        return HELPER
    return ""
