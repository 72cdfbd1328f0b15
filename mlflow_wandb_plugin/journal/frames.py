"""The journal's format: one file for each run, appended by its processes, read by a replicator.

A frame is a 12-byte header (magic, kind, payload length, crc32 over kind and payload) and its
payload, appended with a single `os.write` to a file opened with O_APPEND: it survives the death
of the process the moment `append` returns, and forked children may append too.

Beside ``NAME.journal`` are ``NAME.status`` (JSON) and ``NAME.lock``; the process that ships the
journal writes the one and holds the other. Processes that write the journal hold a shared lock on
the journal itself: while one holds it the run goes on.
"""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple

FORMAT = 1
MAGIC = 0xB57A
HEADER, RECORD, NOTE = 1, 2, 3
"""Kinds of frames: the journal's JSON header, a W&B record, a JSON note (closed, forked, …)."""

SUFFIX = ".journal"
JOURNAL_DIR = "mlflow"
"""The folder of journals inside wandb's own folder."""
FRAME_HEADER = struct.Struct("<HHII")


class Frame(NamedTuple):
    """One frame and the file offset just behind it."""

    end: int
    kind: int
    payload: bytes

    def document(self) -> dict[str, Any]:
        """The payload of a HEADER or NOTE frame."""
        document: dict[str, Any] = json.loads(self.payload)
        return document
