"""What a training script itself writes down about its rows: the judge's only word for them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

BEGUN, ACCEPTED, REFUSED = "begun", "accepted", "refused"
RUN, FINISHING, FINISHED = "run", "finishing", "finished"
KEYS = ("loss", "accuracy", "rate")


def values(row: int) -> dict[str, float]:
    """The values of a row; no two rows have the same ones."""
    return {"loss": row + 0.5, "accuracy": row * 2.0, "rate": 1.0 / (row + 1)}


class LedgerWriter:
    """Appends lines to the ledger; a line is on the disk when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, what: str, of: object = "") -> None:
        os.write(self._fd, f"{what} {of}\n".encode())
        os.fsync(self._fd)

    @contextlib.contextmanager
    def row(self, row: int) -> Iterator[None]:
        """Write before and after the call that logs a row; an exception of it is written, too."""
        self.write(BEGUN, row)
        try:
            yield
        except Exception as error:
            self.write(REFUSED, f"{row} {error!r}"[:200].replace("\n", " "))
        else:
            self.write(ACCEPTED, row)


@dataclass
class Ledger:
    """The content of a ledger.

    Attributes:
        begun: rows that the script was about to log.
        accepted: rows that the call which logs them returned from.
        refused: rows that the call raised for.
        run_id: the run's id, where the script learnt it.
        marks: further lines, such as `FINISHED`.
    """

    begun: set[int] = field(default_factory=set)
    accepted: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    run_id: str = ""
    marks: list[str] = field(default_factory=list)

    @property
    def next_row(self) -> int:
        """The row that a script which goes on begins with."""
        return max(self.begun, default=-1) + 1


def read_ledger(path: Path) -> Ledger:
    """Read a ledger that may still be written; a last line without its end is left out."""
    ledger = Ledger()
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    rows = {BEGUN: ledger.begun, ACCEPTED: ledger.accepted, REFUSED: ledger.refused}
    for line in lines:
        what, _, of = line.partition(" ")
        if what in rows:
            rows[what].add(int(of.split()[0]))
        elif what == RUN:
            ledger.run_id = of
        else:
            ledger.marks.append(what)
    return ledger
