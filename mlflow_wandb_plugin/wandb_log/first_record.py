"""Read which run a ``.wandb`` file is of, from its first records."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import NamedTuple

from mlflow_wandb_plugin.wandb_log.framing import LogReader
from mlflow_wandb_plugin.wandb_log.records import RUN, record_type

LOOKED_AT = 20
"""Records that are looked at: the run's is the first after the header."""


class RunStart(NamedTuple):
    """The run of a log and when it started, Unix ms: two logs with the same are copies."""

    run_id: str
    project: str
    entity: str
    started_ms: int


def run_start(path: Path) -> RunStart | None:
    """Return what the first run record says; None if there is none.

    Raises:
        SourceError: the file cannot be read.
    """
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    for frame in islice(LogReader(path).read(), LOOKED_AT):
        if record_type(frame.payload) == RUN:
            try:
                run = Record.FromString(frame.payload).run
            except DecodeError:
                return None
            started_ms = run.start_time.ToMilliseconds()
            return RunStart(run.run_id, run.project, run.entity, started_ms)
    return None
