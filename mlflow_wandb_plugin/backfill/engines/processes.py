"""``mlflow-wandb backfill --engine processes``: runs spread over processes of this machine.

Reading a log and making rows of it is Python's work, of which one process does one thread's at a
time. Where the target can take more than that, several processes give it more.
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
from mlflow_wandb_plugin.backfill.job import Job
from mlflow_wandb_plugin.backfill.outcome import (
    Listener,
    Outcome,
)
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.errors import UsageError

RETRIES = 2
"""How often a run is begun again alone, because a process died with it."""
ENDING_S = 10.0

Carry = Callable[[Job, RunInfo], RemoteOutcome]


class ProcessEngine:
    """An engine for ``--engine processes``: ``workers`` of them, or one a CPU.

    The target remembers how far each run has come, so a run whose process died goes on there.
    """

    def check(self, job: Job) -> None:
        """
        Raises:
            UsageError: more processes would be no faster: the target has one writer, or W&B's
                server is the source, whose limit is for all of them.
        """
        check_many_may_write(
            job.to, "processes", "needs a target with many writers, and {uri} has one: leave "
            "--engine out, or pass --to with a database server or http://HOST:PORT",
        )  # fmt: skip
        if plugins.open_source(job.source).rate_limited:
            raise UsageError(
                "--engine processes reads files: W&B's own server limits how fast it is asked, "
                "whoever asks. Leave --engine out, or carry it to archive:DIR first"
            )

    def run(self, job: Job, listener: Listener, curves: Curves) -> Iterator[Outcome]:
        """See `mlflow_wandb_plugin.backfill.engines.base.Engine.run`."""
        self.check(job)
        source = plugins.open_source(job.source, job.source_options())
        with Processes(resolve_job_uris(job)) as processes:
            results = processes.carry(selected(source, job.selection))
            yield from reported(results, source, listener, curves)


class Processes:
    """Processes that carry one run after another. Leaving it ends them, whatever they are doing.

    Args:
        carry: what a process does with a run; a function of a module.
    """

    def __init__(self, job: Job, carry: Carry = carry_one) -> None:
        self._job = job
        self._carry = carry
        self._size = job.options.workers or _cpus()
        self._under_way: dict[futures.Future[RemoteOutcome], RunInfo] = {}

    def __enter__(self) -> Processes:
        self._pool = _Pool(self._size)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.end()

    def carry(self, runs: Iterator[RunInfo]) -> Iterator[RemoteOutcome]:
        """Carry ``runs``, of which so many are under way that no process waits for the next."""
        for run in runs:
            while not self._taken(run):
                yield from self._done()
        while self._under_way:
            yield from self._done()

    def _taken(self, run: RunInfo) -> bool:
        if len(self._under_way) >= 2 * self._size:
            return False
        try:
            self._under_way[self._pool.submit(self._carry, self._job, run)] = run
        except BrokenProcessPool:
            if not self._under_way:
                self._begin_anew()
            return False
        return True

    def _begin_anew(self) -> None:
        self._pool.end()
        self._pool = _Pool(self._size)

    def _done(self) -> Iterator[RemoteOutcome]:
        done, _ = futures.wait(self._under_way, return_when=futures.FIRST_COMPLETED)
        broken = any(isinstance(future.exception(), BrokenProcessPool) for future in done)
        if broken:
            # One process died, and the pool has ended the others and given up every run.
            done, _ = futures.wait(self._under_way)
            self._begin_anew()
        for future in done:
            run = self._under_way.pop(future)
            if isinstance(future.exception(), BrokenProcessPool):
                yield self._carry_alone(run)
            else:
                yield future.result()

    def _carry_alone(self, run: RunInfo) -> RemoteOutcome:
        """With no other run beside it, it is known whose process dies."""
        for _ in range(RETRIES):
            pool = _Pool(1)
            try:
                return pool.submit(self._carry, self._job, run).result()
            except BrokenProcessPool:
                continue
            finally:
                pool.end()
        why = f"its process died {RETRIES + 1} times: was it killed, or out of memory?"
        return Outcome(run, "new", "failed", why), {}


def _cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        # Not Linux.
        return os.cpu_count() or 1


class _Pool:
    """A pool of processes that can be ended while they work."""

    def __init__(self, size: int) -> None:
        self._others = multiprocessing.active_children()
        # Forked from a process that has threads, they might wait for a lock that nobody holds.
        context = multiprocessing.get_context("spawn")
        self._executor = futures.ProcessPoolExecutor(size, context, _begin_process)
        self.submit = self._executor.submit

    def end(self) -> None:
        # The executor's own list lacks a process that was just started when Ctrl-C came.
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
    # Standard output is the report's alone, and what Ctrl-C means is for the parent to say.
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's process would wait for work for ever if its parent is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        with contextlib.suppress(OSError):
            parent.join()
        os._exit(1)
