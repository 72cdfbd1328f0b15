"""Find the row of the W&B run's history at which a journal begins."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_COUNTS = ("traces_not_mirrored", "lost")


@dataclass(frozen=True, slots=True)
class JournalStart:
    """Where a journal begins.

    Attributes:
        record: the journal's identity, first row, and what was lost before it. It is in the W&B
            config before any of the journal's rows, so that another attempt finds it there.
        section: `rules.MLFLOW_KEY` of the W&B config as it was when the journal began.
        resent: an earlier attempt has sent a part of this journal.
    """

    record: dict[str, Any]
    section: dict[str, Any]
    resent: bool

    @property
    def first_row(self) -> int:
        return int(self.record["row"])


def find_start(path: Path, end: int, section: Mapping[str, Any], next_row: int) -> JournalStart:
    """Find where the journal begins, by what is known of its run.

    Earlier journals of the run may have been sent and removed.

    Args:
        end: offset behind the journal's first operation; the bytes before identify the journal.
        section: `rules.MLFLOW_KEY` of the W&B config, with the record of the latest journal.
        next_row: number of the next row of the W&B run's history.
    """
    with open(path, "rb") as file:
        journal_id = hashlib.sha256(file.read(end)).hexdigest()[:16]
    latest = section.get("journal") or {}
    resent = latest.get("id") == journal_id
    before = dict(section)
    if resent:
        # The section has the counts of the first attempt; this one counts again.
        before |= {key: latest.get(key) for key in _COUNTS}
    record = {"id": journal_id, "row": latest["row"] if resent else next_row}
    record |= {key: before[key] for key in _COUNTS if before.get(key)}
    return JournalStart(record, before, resent)
