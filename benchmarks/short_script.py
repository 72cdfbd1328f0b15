"""What dual-writing costs a short script at its start and end, and its helper's memory.

    python -m benchmarks.short_script [--rounds 5] [--seconds 5] [--ranks 8]

A script that trains for five seconds, with wandb alone and dual in turns, into SQLite and into an
`mlflow server` of one worker. Seconds that `wandb.init` and `finish` take (medians), and the
greatest memory of the helper process. Then as many processes at once as there are ranks, in one
folder: the memory of all their helpers together, and how many there are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.common import arguments, load, median, private_place, row
from mlflow_wandb_plugin.core.helper_process import MODULE
from tests.support.processes import mlflow_server

SCRIPT = """
import json, os, sys, time
begin = time.perf_counter()
import mlflow_wandb_plugin
mlflow_wandb_plugin.autolog()
import wandb

before = time.perf_counter()
run = wandb.init(project="short", config={"lr": 0.1})
init_s = time.perf_counter() - before
step = 0
while time.perf_counter() - begin < float(sys.argv[1]):
    run.log({f"metric_{number}": step * 1.5 + number for number in range(10)})
    step += 1
    time.sleep(0.01)
before = time.perf_counter()
run.finish()
print(json.dumps([init_s, time.perf_counter() - before]))
"""


def main() -> None:
    options = arguments(__doc__, rounds=5, seconds=5, ranks=8)
    with private_place() as folder, mlflow_server(folder / "server") as url:
        for name, uri in (("SQLite", f"sqlite:///{folder / 'short.db'}"), ("a server", url)):
            one_script(name, uri, folder, options.rounds, options.seconds)
            many(name, uri, folder, options.ranks, options.seconds)


def one_script(name: str, uri: str, folder: Path, rounds: int, seconds: int) -> None:
    """Print what init and finish take, alone and dual."""
    times: dict[str, list[list[float]]] = {"wandb": [], "both": []}
    memory = []
    for number in range(rounds):
        for homes in ("wandb", "both") if number % 2 else ("both", "wandb"):
            place = folder / f"{name[:1]}-{homes}-{number}"
            with script(uri, place, homes, seconds) as process:
                out = process.communicate()[0]
                times[homes].append(json.loads(out.splitlines()[-1]))
                if homes == "both":
                    memory.append(sum(memory_mb(place)))
    row(f"into {name}, {load()}", "wandb", "dual", "added")
    for at, what in enumerate(("init, s", "finish, s")):
        alone, dual = (median([taken[at] for taken in times[homes]]) for homes in ("wandb", "both"))
        row(f"  {what}", f"{alone:.2f}", f"{dual:.2f}", f"{dual - alone:+.2f}")
    row("  memory of the helper, MB", "", f"{median(memory):.0f}", "")


def many(name: str, uri: str, folder: Path, ranks: int, seconds: int) -> None:
    """Print the memory of the helpers of as many processes as there are ranks."""
    place = folder / f"{name[:1]}-ranks"
    with ExitStack() as stack:
        for _ in range(ranks):
            stack.enter_context(script(uri, place, "both", 4 * seconds))
        peak, most = 0.0, 0
        while any(process.poll() is None for process in list(_running)):
            found = memory_mb(place)
            peak, most = max(peak, sum(found)), max(most, len(found))
            time.sleep(0.2)
    row(f"  {ranks} ranks: memory of all helpers, MB; helpers", "", f"{peak:.0f}", f"{most}")


_running: list[subprocess.Popen[str]] = []


@contextmanager
def script(uri: str, place: Path, homes: str, seconds: int) -> Iterator[subprocess.Popen[str]]:
    """The script at work; wandb writes below ``place``."""
    place.mkdir(exist_ok=True)
    own = {"WANDB_DIR": str(place), "MLFLOW_TRACKING_URI": uri, "MLFLOW_WANDB_HOMES": homes}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(seconds)],
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        text=True,
    )
    _running.append(process)
    try:
        yield process
    finally:
        process.wait()
        _running.remove(process)
        if process.stdout is not None:
            process.stdout.close()


def memory_mb(place: Path) -> list[float]:
    """The greatest memory so far of each helper whose journals are in ``place`` (Linux)."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode().split("\0")
            if MODULE in command and any(part.startswith(f"{place}/") for part in command):
                status = (process / "status").read_text()
                found.append(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
        except (OSError, IndexError):
            continue
    return found


if __name__ == "__main__":
    main()
