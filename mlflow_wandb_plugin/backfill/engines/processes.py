"""``mlflow-wandb backfill --engine processes``: carry runs in several processes of this machine.

Decoding a log is Python code, which runs in one thread of a process at a time. Several processes
are faster where the target can take more than one process reads.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool

from mlflow_wandb_plugin import plugins
from mlflow_wandb_plugin.backfill.carrier import (
    selected,
)
from mlflow_wandb_plugin.backfill.curves import Curves
from mlflow_wandb_plugin.backfill.engines.remote import (
    RemoteOutcome,
    carry_one,
    check_many_may_write,
    reported,
    resolve_job_uris,
)
from mlflow_wandb_plugin.backfill.engines.waiting import wait_for_any
from mlflow_wandb_plugin.backfill.options import Job
from mlflow_wandb_plugin.backfill.outcome import (
    Listener,
    Outcome,
)
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.errors import UsageError

RETRIES = 2
"""How often a run is retried in a process of its own after its process died."""
ENDING_S = 10.0

Carry = Callable[[Job, RunInfo], RemoteOutcome]


class ProcessEngine:
    """The engine of ``--engine processes``: ``workers`` processes, or one per CPU.

    The target records the position of each run, so a run whose process died is continued there.
    """

    def check(self, job: Job) -> None:
        """Refuse jobs that more processes would not make faster.

        Raises:
            UsageError: the target has one writer, or the source is a W&B server, whose rate limit
                is for all clients together.
        """
        check_many_may_write(
            job.to, "processes", "needs a target with many writers, and {uri} has one: leave "
            "--engine out, or pass --to with a database server or http://HOST:PORT",
        )  # fmt: skip
        if plugins.open_source(job.source).rate_limited:
            raise UsageError(
                "--engine processes reads files: a W&B server limits the requests of all "
                "processes together. Leave --engine out, or backfill to archive:DIR first"
            )

    def run(self, job: Job, listener: Listener, curves: Curves) -> Iterator[Outcome]:
        """See `mlflow_wandb_plugin.backfill.engines.base.Engine.run`."""
        self.check(job)
        source = plugins.open_source(job.source, job.source_options())
        with Processes(resolve_job_uris(job)) as processes:
            results = processes.carry(selected(source, job.selection))
            yield from reported(results, source, listener, curves)


class Processes:
    """A pool of processes that carry runs. Leaving the ``with`` ends them at once.

    Args:
        carry: called in a process for each run; a module-level function.
    """

    def __init__(self, job: Job, carry: Carry = carry_one) -> None:
        self._job = job
        self._carry = carry
        self._size = job.options.workers or _cpus()
        self._running: dict[futures.Future[RemoteOutcome], RunInfo] = {}

    def __enter__(self) -> Processes:
        self._pool = _Pool(self._size)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.end()

    def carry(self, runs: Iterator[RunInfo]) -> Iterator[RemoteOutcome]:
        """Carry ``runs``; enough of them are submitted that no process waits for the next."""
        for run in runs:
            while not self._submitted(run):
                yield from self._finished()
        while self._running:
            yield from self._finished()

    def _submitted(self, run: RunInfo) -> bool:
        if len(self._running) >= 2 * self._size:
            return False
        try:
            self._running[self._pool.submit(self._carry, self._job, run)] = run
        except BrokenProcessPool:
            if not self._running:
                self._restart_pool()
            return False
        return True

    def _restart_pool(self) -> None:
        self._pool.end()
        self._pool = _Pool(self._size)

    def _finished(self) -> Iterator[RemoteOutcome]:
        done = wait_for_any(self._running)
        broken = any(isinstance(future.exception(), BrokenProcessPool) for future in done)
        if broken:
            # One process died, and the pool has ended the others and given up every run.
            done, _ = futures.wait(self._running)
            self._restart_pool()
        for future in done:
            run = self._running.pop(future)
            if isinstance(future.exception(), BrokenProcessPool):
                yield self._carry_alone(run)
            else:
                yield future.result()

    def _carry_alone(self, run: RunInfo) -> RemoteOutcome:
        """Carry one run in a process of its own, so that it is known which run ends its process."""
        for _ in range(RETRIES):
            pool = _Pool(1)
            try:
                [done] = wait_for_any([pool.submit(self._carry, self._job, run)])
                return done.result()
            except BrokenProcessPool:
                continue
            finally:
                pool.end()
        why = f"its process ended {RETRIES + 1} times: was it killed, or out of memory?"
        return Outcome(run, "new", "failed", why), {}


def _cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        # Not Linux.
        return os.cpu_count() or 1


class _Pool:
    """A process pool that can be ended while its processes work."""

    def __init__(self, size: int) -> None:
        self._others = multiprocessing.active_children()
        # A process forked while threads run may wait for ever for a lock that a thread held.
        context = multiprocessing.get_context("spawn")
        self._executor = futures.ProcessPoolExecutor(size, context, _begin_process)
        self.submit = self._executor.submit

    def end(self) -> None:
        # The executor's own list lacks a process that was being started when Ctrl-C came.
        mine = [child for child in multiprocessing.active_children() if child not in self._others]
        self._executor.shutdown(wait=False, cancel_futures=True)
        for process in mine:
            process.terminate()
        for process in mine:
            process.join(ENDING_S)
            if process.is_alive():
                process.kill()
                process.join(ENDING_S)


def _begin_process() -> None:
    # Standard output is for the report only; the parent handles Ctrl-C.
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent ends: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        with contextlib.suppress(OSError):
            parent.join()
        os._exit(1)
