"""How rows are sent and journalled in few steps, and only where that changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_wandb_plugin.live.tap import sends_rows_as_known
from tests.support.mlflow_state import read_runs
from tests.support.processes import run_script


def test_the_installed_wandb_sends_rows_as_known() -> None:
    """A wandb that fails here works, and costs 2 µs more a row."""
    from wandb.sdk.interface.interface_sock import InterfaceSock

    assert sends_rows_as_known(InterfaceSock)


def test_another_way_of_sending_rows_is_noticed() -> None:
    """One that sends another record, a second one, or needs what a bare object does not have."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.interface.interface_sock import InterfaceSock

    class Marked(InterfaceSock):
        def _publish_partial_history(self, row: object) -> None:
            record = self._make_request(partial_history=row)
            record.control.req_resp = True
            self._publish(record)

    class Twice(InterfaceSock):
        def _publish_partial_history(self, row: object) -> None:
            super()._publish_partial_history(row)
            self._publish(Record())

    class Stateful(InterfaceSock):
        def _publish_partial_history(self, row: object) -> None:
            self._rows.append(row)

    assert not any(map(sends_rows_as_known, (Marked, Twice, Stateful)))


@pytest.mark.usefixtures("patient")
def test_a_wandb_that_sends_rows_otherwise_is_followed_all_the_same(
    env: dict[str, str], tmp_path: Path
) -> None:
    """Its own method sends the rows, and what it publishes is journalled."""
    run_script(
        """
from wandb.sdk.interface.interface_sock import InterfaceSock
calls, theirs = [], InterfaceSock._publish_partial_history
def changed(self, row):
    calls.append(self._stream_id)
    theirs(self, row)
InterfaceSock._publish_partial_history = changed
import mlflow_wandb_plugin.wandb as wandb
run = wandb.init(project="p", id="changed")
run.log({"m": 1})
run.log({"m": 2.5})
run.finish()
assert len(calls) == 2, calls
""",
        env,
        tmp_path / "work",
    )
    (run,) = read_runs(env["MLFLOW_TRACKING_URI"]).values()
    assert run.points("m") == [(0, 1.0), (1, 2.5)]
