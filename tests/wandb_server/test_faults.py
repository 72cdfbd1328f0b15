"""Misbehaviour, and how the real client takes it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from . import Run, WandbServer
from .clients import Client, ClientError, Worker, run_python

SCAN = """
    import wandb
    run = wandb.Api().run("faults/run")
    result = [row["x"] for row in run.scan_history(use_cache=False, page_size=10)]
"""


@pytest.fixture
def run(server: WandbServer) -> Run:
    return server.add_run("faults", "run", rows=[{"x": i} for i in range(100)])


@pytest.fixture
def scan(reader: Worker, run: Run) -> Callable[[], list[int]]:
    """Reads the run's hundred rows in ten pages."""
    return lambda: reader.call(SCAN)


def test_a_429_is_retried_after_the_time_it_names(
    server: WandbServer, scan: Callable[[], list[int]]
) -> None:
    """The client waits as long as Retry-After says, and then asks again."""
    server.fail("HistoryPage", skip=3, status=429, retry_after=0.5)
    before, start = len(server.asked("HistoryPage")), time.monotonic()
    assert scan() == list(range(100))
    assert time.monotonic() - start >= 0.5
    assert [r.status for r in server.asked("HistoryPage")[before:]] == [200] * 3 + [429] + [200] * 7


def test_a_500_is_retried(server: WandbServer, scan: Callable[[], list[int]]) -> None:
    """The client asks again on its own after a server error."""
    fault = server.fail("HistoryPage", status=500)
    assert scan() == list(range(100))
    assert fault.hits == 1


def test_a_400_is_not_retried(server: WandbServer, scan: Callable[[], list[int]]) -> None:
    """A request refused for good is an error at once."""
    fault = server.fail("HistoryPage", status=400, times=None)
    with pytest.raises(ClientError, match="400"):
        scan()
    assert fault.hits == 1


def test_a_connection_dropped_in_the_middle_of_page_7_reaches_the_caller(
    server: WandbServer, scan: Callable[[], list[int]]
) -> None:
    """Half a body is an error that wandb-core does not retry, so its callers have to."""
    server.fail("HistoryPage", skip=6, drop_after_bytes=60)
    before = len(server.asked("HistoryPage"))
    with pytest.raises(ClientError, match=r"reset|EOF"):
        scan()
    assert len(server.asked("HistoryPage")) == before + 7
    assert scan() == list(range(100))


def test_a_connection_dropped_before_any_answer_is_retried(
    server: WandbServer, scan: Callable[[], list[int]]
) -> None:
    """No answer at all is retried, unlike half of one."""
    fault = server.fail("HistoryPage", drop_after_bytes=0)
    assert scan() == list(range(100))
    assert fault.hits == 1


def test_an_export_cut_short_is_reported_beside_the_result(
    server: WandbServer, run: Run, reader: Worker
) -> None:
    """A failed download raises nothing: it is in `errors`, and the file is not in `paths`."""
    server.parquet(run)
    server.fail("GET /storage/*history.parquet", drop_after_bytes=100)
    paths, errors = reader.call(
        """
        import wandb
        run = wandb.Api().run("faults/run")
        done = run.download_history_exports("cut")
        result = len(done.paths), len(done.errors)
        """
    )
    assert (paths, errors) == (0, 1)


def test_a_slow_page_is_waited_for(server: WandbServer, scan: Callable[[], list[int]]) -> None:
    """A page held back until the test lets it go arrives whole."""
    gate, held = threading.Event(), threading.Event()
    server.fail("HistoryPage", skip=6, before=held.set, delay=0.2)
    server.fail("HistoryPage", skip=7, gate=gate)

    def open_gate() -> None:
        held.wait(30)
        gate.set()

    opener = threading.Thread(target=open_gate)
    opener.start()
    start = time.monotonic()
    assert scan() == list(range(100))
    assert time.monotonic() - start >= 0.2
    opener.join()


def test_a_run_that_grows_while_it_is_read_keeps_its_first_rows(
    server: WandbServer, run: Run, scan: Callable[[], list[int]]
) -> None:
    """A scan ends at the step that was last when it began; the next one sees the rest."""
    server.fail("HistoryPage", skip=4, then=lambda: server.grow(run, [{"x": 100}]))
    assert scan() == list(range(100))
    assert scan() == list(range(101))


def test_a_run_exported_while_it_is_read_loses_rows(
    server: WandbServer, run: Run, scan: Callable[[], list[int]]
) -> None:
    """Rows that move from the live tail to an export under a scan are missed by that scan."""
    server.fail("HistoryPage", skip=4, then=lambda: server.parquet(run))
    assert scan() == list(range(50))
    assert scan() == list(range(100))


def test_a_lost_answer_does_not_repeat_history(server: WandbServer, private: Path) -> None:
    """Lines sent twice, because the answer to the first sending was lost, are stored once."""
    lost = server.fail("POST /files/*/file_stream", drop_after_bytes=0, times=2)
    refused = server.fail("UpsertBucket", status=429, retry_after=0.1)
    run_python(
        server,
        private,
        """
        import wandb
        with wandb.init(project="faults", id="lossy") as run:
            for i in range(50):
                run.log({"i": i})
        """,
    )
    assert (lost.hits, refused.hits) == (2, 1)
    run = server.run("faults/lossy")
    assert [line.row["i"] for line in run.history.live] == list(range(50))
    assert run.state == "finished"


def test_a_killed_client_leaves_a_running_run(server: WandbServer, private: Path) -> None:
    """Nobody says that the run is over, so it stays as it was."""
    arrived = threading.Event()
    server.fail("POST /files/*/killed/file_stream", then=arrived.set, times=None)
    code = """
import time, wandb
run = wandb.init(project="faults", id="killed")
run.log({"i": 1})
time.sleep(300)
"""
    with Client(server, private, ["-c", code]):
        assert arrived.wait(60)
    assert server.run("faults/killed").state == "running"


def test_an_upload_that_fails_once_is_repeated(server: WandbServer, private: Path) -> None:
    """A file whose first upload was refused is stored all the same."""
    fault = server.fail("PUT /storage/*/data.txt", status=500)
    run_python(
        server,
        private,
        """
        import wandb
        with wandb.init(project="faults", id="upload") as run:
            with open("data.txt", "w") as file:
                file.write("content")
            run.save("data.txt")
        """,
    )
    assert fault.hits == 1
    assert server.run("faults/upload").files["data.txt"].path.read_text() == "content"
