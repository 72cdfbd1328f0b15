"""The fault campaign finds what it is for: the judge, the proxy and two faults in real runs."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from faults import plan, proxy, soak, targets, wandb_file
from faults.judge import Found, Point, judge
from faults.ledger import ACCEPTED, BEGUN, FINISHED, RUN, Ledger, LedgerWriter, read_ledger, values
from faults.proxy import Proxies
from faults.servers import MlflowServer, running
from faults.trial import Place, run
from tests.support.environment import isolated
from tests.wandb_server import WandbServer

LOGGED = Ledger(begun={0, 1, 2, 3}, accepted={0, 1, 2})


def point(key: str, row: int, time: int = 1000) -> Point:
    return key, row, values(row)[key], time


def found(*rows: int, **changes: object) -> Found:
    """A target that is right about ``rows``, but for ``changes``."""
    points = [point(key, row) for row in rows for key in values(row)]
    right = Found(1, points, values(max(rows)), "FINISHED", True, "of the run")
    for name, value in changes.items():
        setattr(right, name, value)
    return right


def test_judge_finds_nothing_where_all_is_right() -> None:
    """All rows that were accepted, with the one under way or without it, are a clean run."""
    for target in (found(0, 1, 2), found(0, 1, 2, 3)):
        assert judge(target, LOGGED, LOGGED.accepted, ["FINISHED"]).clean


def test_judge_finds_a_row_that_is_lost() -> None:
    """A row is lost if one of its keys is missing."""
    target = found(0, 1, 2)
    target.points.remove(point("rate", 1))
    verdict = judge(target, LOGGED, LOGGED.accepted, ["FINISHED"])
    assert (verdict.lost, verdict.doubled, verdict.wrong) == ([1], [], [])


def test_judge_finds_a_row_that_is_doubled() -> None:
    """A row is doubled if a key has two points at its step, or the run is there twice."""
    target = found(0, 1, 2)
    target.points.append(point("loss", 2, time=2000))
    assert judge(target, LOGGED, LOGGED.accepted, ["FINISHED"]).doubled == [2]
    twice = judge(found(0, 1, 2, copies=2), LOGGED, LOGGED.accepted, ["FINISHED"])
    assert twice.doubled == [0, 1, 2]
    assert twice.wrong == ["2 runs in the target"]


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (found(0, 1, 2, status="RUNNING"), "status RUNNING, not FINISHED"),
        (found(0, 1, 2, complete=False), "not marked as complete"),
        (found(0, 1, 2, param=""), "param ''"),
        (found(0, 1, 2, latest=values(1) | {"rate": values(2)["rate"]}), "latest value of"),
        (found(0, 1, 2, 4), "rows that were never logged: [4]"),
        (Found(), "no run in the target"),
    ],
)
def test_judge_finds_a_wrong_state(target: Found, told: str) -> None:
    """Status, mark, param, latest values, invented rows and a missing run are told."""
    verdict = judge(target, LOGGED, LOGGED.accepted, ["FINISHED"])
    assert told in " ".join(verdict.wrong)


def test_judge_finds_a_value_that_differs() -> None:
    """Another value at a step is a wrong state, not a loss."""
    target = found(0, 1, 2)
    target.points[0] = ("loss", 0, 7.0, 1000)
    verdict = judge(target, LOGGED, LOGGED.accepted, ["FINISHED"])
    assert (verdict.lost, verdict.wrong) == ([], ["other values in rows [0]"])


def test_ledger_is_read_while_it_is_written(tmp_path: Path) -> None:
    """A ledger has the rows before and after each call; half a line is no line."""
    ledger = LedgerWriter(tmp_path / "ledger")
    for what, of in ((RUN, "r1"), (BEGUN, 0), (ACCEPTED, 0), (BEGUN, 1), (FINISHED, "")):
        ledger.write(what, of)
    with open(tmp_path / "ledger", "a") as file:
        file.write("accepted 1")
    read = read_ledger(tmp_path / "ledger")
    assert (read.run_id, read.begun, read.accepted) == ("r1", {0, 1}, {0})
    assert (read.next_row, read.marks) == (2, ["finished"])


def test_a_seed_gives_the_same_trials() -> None:
    """A plan has 200 trials or more of all kinds; a selection has the same ones of its kinds."""
    trials = plan.trials(7, 200)
    assert 200 <= sum(len(trial.moments) for trial in trials) < 400
    assert {trial.fault for trial in trials} == set(plan.kinds())
    only = plan.trials(7, 200, "live/sigkill-helper")
    assert only == [trial for trial in trials if trial.fault.label == "live/sigkill-helper"]
    assert plan.trials(8, 200) != trials


class Counting(BaseHTTPRequestHandler):
    """Answers each request with how many there were."""

    protocol_version = "HTTP/1.1"
    requests = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).requests += 1
        body = json.dumps(self.requests).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def counting() -> Iterator[int]:
    Counting.requests = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Counting) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.parametrize(
    ("fault", "status", "reached"),
    [
        ("", 200, 1),
        (proxy.TWICE, 200, 2),
        (proxy.ANSWER_LOST, 0, 1),
        (proxy.RESET, 0, 0),
        (proxy.TOO_MANY, 429, 0),
        (proxy.BROKEN, 500, 0),
        (proxy.BLACK_HOLE, -1, 0),
    ],
)
def test_proxy_does_to_requests_what_it_is_told(
    counting: int, fault: str, status: int, reached: int
) -> None:
    """Requests are refused, cut, swallowed, delivered twice, or their answers are lost."""
    with Proxies() as proxies:
        between = proxies.to(counting, share=1.0)
        between.fault = fault
        connection = HTTPConnection(between.url.removeprefix("http://"), timeout=1)
        try:
            connection.request("POST", "/", b"x" * 100_000)
            answer = connection.getresponse().status
        except TimeoutError:
            answer = -1
        except (OSError, HTTPException):
            answer = 0
        finally:
            connection.close()
        between.close()
    assert (answer, Counting.requests) == (status, reached)
    assert between.hits == bool(fault)


def test_soak_tells_growth_of_memory_and_lag() -> None:
    """The verdict compares the second quarter with the last one."""
    flat = [soak.Sample(float(s), 100 * s, 100 * s, 500, 120, 1) for s in range(5, 100, 5)]
    assert soak.verdict(flat, 100, 100) == []
    grown = [soak.Sample(s.at_s, s.logged, s.logged // 2, 500 + 5 * s.at_s, 120, 1) for s in flat]
    assert soak.verdict(grown, 100, 100) == [
        "memory of trainers grew from 675 to 925 MB",
        "the lag grew from 1,750 to 4,250 rows",
        "4750 rows are missing at the end",
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Place]:
    """Servers for real trials of few rows."""
    folder = tmp_path_factory.mktemp("faults")
    server = MlflowServer(folder / "server", empty_store, isolated(folder / "server" / "env"))
    with WandbServer(folder / "wandb") as wandb, Proxies() as proxies, running(server):
        yield Place(folder, empty_store, wandb, proxies, server, rows=60)


def trial_of(label: str) -> plan.Trial:
    """A trial with one fault in the middle of the rows."""
    moment = plan.Moment(plan.ROWS, 0.4, 0.5)
    return replace(plan.trials(1, 1, label)[0], moments=(moment,))


@pytest.mark.slow
@pytest.mark.parametrize("label", ["live/sigkill-trainer", "mirror/sigkill-helper"])
def test_real_fault_loses_nothing(place: Place, label: str) -> None:
    """After a kill of the script in one direction, of the helper in the other, a run is whole."""
    outcome = run(trial_of(label), place)
    assert outcome.injected == 1
    [verdict] = outcome.verdicts
    assert (verdict.lost, verdict.doubled, verdict.wrong) == ([], [], [])
    assert verdict.rows > 5


@pytest.mark.slow
def test_what_is_taken_from_a_real_target_is_found(place: Place, tmp_path: Path) -> None:
    """Points that are removed from MLflow's database, or added with another time, are told."""
    trial = trial_of("live/clock-forward")
    assert run(trial, place).clean
    folder = place.folder / trial.name / "0"
    ledger = read_ledger(folder / "ledger")
    with sqlite3.connect(place.server.database) as store:
        store.execute("DELETE FROM metrics WHERE step = 3 AND key = 'loss'")
        store.execute(
            "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) "
            "SELECT key, value, timestamp + 1, run_uuid, step, is_nan "
            "FROM metrics WHERE step = 5 AND key = 'rate'"
        )
    store.close()
    read = targets.in_mlflow(place.server.database, f"{trial.name}-0")
    verdict = judge(read, ledger, ledger.accepted, ["FINISHED"])
    assert (verdict.lost, verdict.doubled, verdict.wrong) == ([3], [5], [])
    [log] = folder.rglob("*.wandb")
    assert wandb_file.steps(log) == ledger.accepted == set(range(60))
