"""Wait for the runs that are being carried."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from mlflow_wandb_plugin.backfill.engines.waiting import wait_for_any


@pytest.fixture
def heeded() -> Iterator[None]:
    """SIGINT raises, also where the tests were started in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_those_that_are_done_are_returned() -> None:
    """The others go on."""
    done, other = Future[int](), Future[int]()
    done.set_result(1)
    assert wait_for_any([done, other]) == {done}


def test_ctrl_c_that_does_not_wake_the_wait_ends_it(heeded: None) -> None:
    """Another thread receives the signal: the main thread, which handles it, sleeps on."""
    never = Future[int]()
    begun = threading.Event()
    late = threading.Timer(30, never.set_result, [0])

    def interrupt() -> None:
        begun.wait(30)
        # Nothing tells when a thread sleeps; a signal before that would wake it in any case.
        time.sleep(0.2)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    class Told(list[Future[int]]):
        """Tells when the futures are read, which is when the wait begins."""

        def __iter__(self) -> Iterator[Future[int]]:
            begun.set()
            return super().__iter__()

    thread = threading.Thread(target=interrupt)
    thread.start()
    late.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            wait_for_any(Told([never]))
        assert not never.done()
    finally:
        late.cancel()
        thread.join()
