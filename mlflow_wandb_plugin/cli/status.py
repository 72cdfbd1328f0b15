"""``mlflow-wandb status``."""

from __future__ import annotations

import json
import textwrap
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from mlflow_wandb_plugin.cli.next_commands import examples
from mlflow_wandb_plugin.cli.terminal import echo, say
from mlflow_wandb_plugin.core import tracking_uri
from mlflow_wandb_plugin.journal import outbox
from mlflow_wandb_plugin.journal.journal_locks import trainer_alive
from mlflow_wandb_plugin.journal.status_file import WANDB_RUN_ID, read_status
from mlflow_wandb_plugin.replicator import sync as syncing
from mlflow_wandb_plugin.replicator.wandb_shipment import is_mirrored

WIDTH = 80
COLUMNS = {"run": 26, "id": 14, "project": 16, "age": 5, "replica": 9}
"""The columns of the list, and the most characters of each."""


@click.command(
    epilog=examples(
        "mlflow-wandb status", "mlflow-wandb status ./wandb", "mlflow-wandb status --json"
    )
)
@click.argument("folders", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def status(folders: tuple[Path, ...], as_json: bool) -> None:
    """Show runs and the state of their replicas: in MLflow, or in W&B for runs created in MLflow.

    FOLDERS default to where wandb writes: WANDB_DIR, else the current folder.
    """
    rows = [
        _row(path)
        for folder in folders or (syncing.default_folder(),)
        for path in syncing.find_journals(folder, delivered=True)
    ]
    if as_json:
        echo(json.dumps(rows, indent=1))
        return
    for line in _lines(rows):
        say(line)
    echo(_verdict(rows))


def _verdict(rows: Sequence[dict[str, Any]]) -> str:
    """The last line: how many there are, and what to type if some wait."""
    if not rows:
        return "no replicas here"
    counted = Counter(str(row["replica"]) for row in rows)
    line = ", ".join(f"{number:,} {state}" for state, number in sorted(counted.items()))
    return f"{line}. Deliver: mlflow-wandb sync" if counted["waiting"] else line


def _lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A list of at most `WIDTH` columns: a line for each run, and its details below."""
    shown = [{name: _cut(str(row[name]), most) for name, most in COLUMNS.items()} for row in rows]
    widths = {name: max(len(each[name]) for each in [*shown, _TITLES]) for name in COLUMNS}
    lines = []
    for row, cells in zip([None, *rows], [_TITLES, *shown], strict=True) if rows else ():
        lines.append("  ".join(cells[name].ljust(widths[name]) for name in COLUMNS).rstrip())
        lines += _details(row) if row is not None else []
    return lines


_TITLES = {name: name for name in COLUMNS}


def _details(row: dict[str, Any]) -> list[str]:
    wanted = {
        "log": row["log"],
        f"in {row['home']}": row["MLflow run"] if row["home"] == "MLflow" else row["where"],
        "see it": row["see it"],
        "trainer": row["trainer"] if row["trainer"] == "alive" else "",
        "not yet shipped": row["not yet shipped"],
        "not carried": row["not carried"],
        "trouble": row["trouble"],
    }
    text = {"width": WIDTH, "initial_indent": "  ", "subsequent_indent": "    "}
    whole = {"break_long_words": False, "break_on_hyphens": False}
    return [
        line
        for name, value in wanted.items()
        if value
        for line in textwrap.wrap(f"{name}: {value}", **whole, **text)  # type: ignore[arg-type]
    ]


def _cut(text: str, most: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _row(path: Path) -> dict[str, Any]:
    recorded = read_status(path)
    mirrored = recorded.get("born") == outbox.BORN or (path.exists() and is_mirrored(path))
    pending = path.exists()
    alive = pending and trainer_alive(path)
    state = recorded.get("state", "waiting")
    if not pending and state == "live":
        # It was delivered; the process ended before it wrote the status.
        state = "complete"
    losses = recorded.get("losses") or {}
    at_work = state in ("live", "asking")
    return {
        "log": path.stem,
        "run": str(recorded.get("name") or ""),
        "id": path.stem if mirrored else _wandb_id(path, recorded),
        "project": str(recorded.get("project") or ""),
        "age": _age(path),
        "trainer": "alive" if alive else "ended",
        "home": "W&B" if mirrored else "MLflow",
        "replica": "waiting" if pending and not alive and at_work else state,
        "MLflow run": path.stem if mirrored else recorded.get("run_id", ""),
        "where": recorded.get("where", ""),
        "see it": "" if mirrored else tracking_uri.how_to_see(str(recorded.get("where", ""))),
        "not yet shipped": f"{path.stat().st_size:,} bytes" if pending else "",
        "not carried": ", ".join(f"{what}: {count}" for what, count in losses.items()),
        "trouble": recorded.get("error", ""),
    }


STAMP = len("20260101_000000-")
"""Characters of a log's name before the run's id: when the run started."""


def _wandb_id(path: Path, recorded: Mapping[str, Any]) -> str:
    """The id of a journal's W&B run; of one whose delivery has not begun, what its name says."""
    return str(recorded.get(WANDB_RUN_ID) or "") or path.stem[STAMP:] or path.stem


def _age(path: Path) -> str:
    """How long ago the run started, or a mirrored run was last written."""
    try:
        started_s = datetime.strptime(path.stem[: STAMP - 1], "%Y%m%d_%H%M%S").timestamp()
    except ValueError:
        found = path if path.exists() else path.with_suffix(".status")
        started_s = found.stat().st_mtime if found.exists() else time.time()
    seconds = max(0, int(time.time() - started_s))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
