"""Calls of several threads that write to one database, in common transactions."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from mlflow_wandb_plugin.mlflow_access.sql.batches import Batch, BatchWriter
from mlflow_wandb_plugin.mlflow_access.sql.transactions import (
    SharedTransactions,
    is_deadlock,
    is_lock_timeout,
)

if TYPE_CHECKING:
    from sqlalchemy import Engine

MOST_POINTS = 10_000
"""Points of one transaction, after which it takes no more calls: other writers wait for its end."""
PATIENCE_S = 10.0
"""A call that has waited as long for a lock that another transaction did not get gives up, too."""


class _Call:
    """One call, whose thread waits for `wake` to be released: the call is done, or has to lead.

    Attributes:
        written: whether its batch was committed; None as long as that is not known.
        error: why it was not, for the caller.
    """

    __slots__ = ("batch", "error", "since", "wake", "written")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.since = time.monotonic()
        self.wake = threading.Lock()
        self.wake.acquire()
        self.written: bool | None = None
        self.error: Exception | None = None


class GroupCommit:
    """Commits what several threads write at the same time in one transaction.

    The first thread to come leads: it writes what has arrived once its transaction has begun. What
    comes meanwhile waits for the next transaction, which one of the waiting threads leads. A thread
    that is alone waits for nobody.
    """

    def __init__(self, engine: Engine) -> None:
        self._transactions = SharedTransactions(engine)
        self._writer = BatchWriter(engine)
        self._lock = threading.Lock()
        self._waiting: deque[_Call] = deque()
        self._led = False

    def write(self, batch: Batch) -> bool:
        """Write a batch; returns once it is committed. False if it must be written by MLflow: then
        nothing of it was written.

        Raises:
            sqlalchemy.exc.OperationalError: another writer kept its lock for too long.
        """
        call = _Call(batch)
        with self._lock:
            self._waiting.append(call)
            leads, self._led = not self._led, True
        if not leads:
            try:
                call.wake.acquire()
            except BaseException:
                self._abandon(call)
                raise
        if call.written is None and call.error is None:
            self._lead()
        if call.error is not None:
            raise call.error
        return bool(call.written)

    def _lead(self) -> None:
        """Commit the first call that waits, which is this thread's, and others with it."""
        taken: list[_Call] = []
        try:
            self._commit(taken)
        except BaseException:
            # An interrupt of this thread: the others go on.
            with self._lock:
                self._waiting.extendleft(reversed([call for call in taken[1:] if not _done(call)]))
            raise
        finally:
            with self._lock:
                for call in taken[1:]:
                    if _done(call):
                        call.wake.release()
                self._hand_over()

    def _hand_over(self) -> None:
        """Have the first call that waits lead, if there is one. The caller holds the lock."""
        self._led = bool(self._waiting)
        if self._waiting:
            self._waiting[0].wake.release()

    def _abandon(self, call: _Call) -> None:
        """Have the others go on without a call whose thread was interrupted while it waited."""
        with self._lock:
            woken = call.wake.acquire(blocking=False)
            if call in self._waiting:
                self._waiting.remove(call)
                if woken:
                    self._hand_over()

    def _commit(self, taken: list[_Call]) -> None:
        with self._lock:
            taken.append(self._waiting.popleft())

        try:
            with self._transactions.transaction() as connection:
                self._take_more(taken)
                results = self._writer.write(connection, [call.batch for call in taken])
        except Exception as error:
            if is_lock_timeout(error):
                self._take_impatient(taken)
                for call in taken:
                    call.error = error
            elif len(taken) == 1 and not is_deadlock(error):
                taken[0].written = False
            else:
                for call in taken:
                    self._commit_alone(call)
        else:
            for call, written in zip(taken, results, strict=True):
                call.written = written

    def _take_more(self, taken: list[_Call]) -> None:
        points = sum(call.batch.point_count() for call in taken)
        with self._lock:
            while self._waiting and points < MOST_POINTS:
                call = self._waiting.popleft()
                points += call.batch.point_count()
                taken.append(call)

    def _take_impatient(self, taken: list[_Call]) -> None:
        since = time.monotonic() - PATIENCE_S
        with self._lock:
            while self._waiting and self._waiting[0].since <= since:
                taken.append(self._waiting.popleft())

    def _commit_alone(self, call: _Call) -> None:
        try:
            [call.written] = self._transactions.run(
                lambda connection: self._writer.write(connection, [call.batch])
            )
        except Exception as error:
            if is_lock_timeout(error):
                call.error = error
            else:
                call.written = False


def _done(call: _Call) -> bool:
    return call.written is not None or call.error is not None
