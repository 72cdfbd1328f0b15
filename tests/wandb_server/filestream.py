"""What a client streams about its run: history, events, summary, console, and its end."""

from __future__ import annotations

import json
from typing import Any

from .state import Run, now

Json = dict[str, Any]


def receive(run: Run, body: Json, writer: str | None, derive_summary: bool = False) -> Json:
    """Store one message; `writer` names the sender in shared mode.

    With `derive_summary` the client leaves the summary to the server: the last value of a key.
    """
    run.heartbeat_at = now()
    before = run.history.line_count
    for name, chunk in (body.get("files") or {}).items():
        _receive_file(run, name, chunk["offset"], chunk["content"], writer)
    if derive_summary:
        for line in run.history.live[before - run.history.line_count :]:
            run.summary.update(line.row)
    run.marked_uploaded.update(body.get("uploaded") or [])
    run.preempting = run.preempting or bool(body.get("preempting"))
    if body.get("complete"):
        run.exit_code = body.get("exitcode") or 0
        run.state = _final_state(run)
    elif writer is None or run.exit_code is None:
        run.state, run.exit_code = "running", None
    return {"exitcode": None, "limits": {}, "stopped": run.stopped}


def _final_state(run: Run) -> str:
    if run.exit_code == 0:
        return "finished"
    return "preempted" if run.preempting else "failed"


def _receive_file(run: Run, name: str, offset: int, content: list[str], writer: str | None) -> None:
    if name == "wandb-history.jsonl":
        run.history.write(offset, content, writer)
    elif name == "wandb-summary.json":
        summary = json.loads(content[-1])
        run.summary = {**run.summary, **summary} if writer else summary
        if writer and "_step" in summary:
            run.summary["_step"] = run.history.last_step
    elif name == "wandb-events.jsonl":
        _place(run.events, len(run.events) if writer else offset, content)
        for line in content:
            latest = json.loads(line)
            run.system_metrics.update({k: v for k, v in latest.items() if k[0] != "_"})
    elif name == "output.log":
        _place(run.console, len(run.console) if writer else offset, content)


def _place(lines: list[str], offset: int, content: list[str]) -> None:
    """Write lines at their offset: the same message twice changes nothing."""
    lines.extend([""] * (offset - len(lines)))
    lines[offset : offset + len(content)] = content
