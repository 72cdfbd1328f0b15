"""What concerns MLflow as a whole is one error before the first run, within seconds."""

from __future__ import annotations

import http.server
import os
import shutil
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mlflow_wandb_plugin.backfill.execution import Backfill
from mlflow_wandb_plugin.backfill.options import Job
from mlflow_wandb_plugin.errors import TargetUnusableError
from mlflow_wandb_plugin.journal.status_file import read_status
from mlflow_wandb_plugin.replicator.mlflow_shipment import MlflowShipment
from mlflow_wandb_plugin.wandb_log.log_writer import LogWriter
from tests.replicator.test_mlflow_shipment import WHOLE, written
from tests.support.commands import mlflow_wandb
from tests.support.records import exit_record, run_record

LIMIT_S = 10.0


class _Refusing(http.server.BaseHTTPRequestHandler):
    """Answers 401 to everything."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[str]:
    """The URL of a server that refuses everything, over TLS if it has a certificate."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody knows."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed here")
    path = tmp_path_factory.mktemp("tls") / "own.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(path.with_suffix(".key")), "-out", str(path)],
        check=True, capture_output=True,
    )  # fmt: skip
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A wandb folder with one run."""
    place = tmp_path / "wandb" / "offline-run-20260101_000000-r1"
    place.mkdir(parents=True)
    with LogWriter(place / "run-r1.wandb") as log:
        for record in (run_record("r1"), exit_record()):
            log.append(record.SerializeToString())
    return tmp_path / "wandb"


def refusal(folder: Path, to: str) -> str:
    """The error with which a backfill to ``to`` does not start."""
    began = time.monotonic()
    with pytest.raises(TargetUnusableError) as caught:
        list(Backfill([Job(str(folder), to)]).run())
    assert time.monotonic() - began < LIMIT_S
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_certificate_that_is_not_trusted_is_one_line_and_exit_code_2(
    folder: Path, certificate: Path, env: dict[str, str], tmp_path: Path
) -> None:
    """The command ends at once, and says which variables name a certificate."""
    with serving(certificate) as url:
        began = time.monotonic()
        done = mlflow_wandb("backfill", folder, "--to", url, env=env, cwd=tmp_path)
        # The command takes seconds to start on a busy machine.
        assert time.monotonic() - began < 3 * LIMIT_S
        assert done.returncode == 2
        (line,) = done.stderr.strip().splitlines()[-1:]
        assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in line
        assert "Traceback" not in done.stderr
        assert "certificate" in refusal(folder, url)


def test_a_certificate_that_is_named_is_trusted(
    folder: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the credentials are asked for."""
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
    with serving(certificate) as url:
        assert "does not accept the credentials (401)" in refusal(folder, url)


def test_credentials_that_are_refused(folder: Path) -> None:
    """The message names the variables."""
    with serving() as url:
        assert "MLFLOW_TRACKING_TOKEN" in refusal(folder, url)


def test_a_library_that_is_missing(
    folder: Path, fresh_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Artifacts in S3 need boto3, and what comes with it."""
    for name in ("boto3", "botocore"):
        monkeypatch.setitem(sys.modules, name, None)
    client = MlflowClient(fresh_store)
    experiment = client.create_experiment("unit", "s3://bucket/0")
    message = refusal(folder, fresh_store)
    assert "s3://bucket/0" in message
    assert "boto" in message
    assert list(client.search_runs([experiment])) == []


@pytest.mark.parametrize("depth", [0, 2])
def test_a_folder_that_may_not_be_written(
    folder: Path, fresh_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    """The root of the artifacts, or a folder far above it, where they would be created."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.geteuid() == 0:
        # Root may write everywhere: let it be told what others are.
        real = os.access

        def access(path: Path, mode: int) -> bool:
            allowed = 0o4 | stat.S_IMODE(path.stat().st_mode) >> 6
            return real(path, mode) and not mode & ~allowed

        monkeypatch.setattr(os, "access", access)
    root = closed.joinpath(*["below"] * depth)
    experiment = MlflowClient(fresh_store).create_experiment("unit", str(root))
    message = refusal(folder, fresh_store)
    assert f"MLflow keeps artifacts in {root}" in message
    assert f"{closed} may not be written" in message
    assert list(MlflowClient(fresh_store).search_runs([experiment])) == []


@pytest.mark.parametrize("place", ["s3", "occupied"])
def test_a_place_that_cannot_be_used_is_one_line_and_exit_code_2(
    folder: Path, env: dict[str, str], tmp_path: Path, place: str
) -> None:
    """Of the command, once for all runs."""
    (tmp_path / "occupied").write_text("a file")
    (tmp_path / "none" / "boto3").mkdir(parents=True)
    (tmp_path / "none" / "boto3" / "__init__.py").write_text(
        "raise ImportError('No module named boto3')"
    )
    root = "s3://bucket/0" if place == "s3" else str(tmp_path / "occupied" / "0")
    store = env["MLFLOW_TRACKING_URI"]
    MlflowClient(store).create_experiment("unit", root)
    paths = os.pathsep.join(filter(None, (str(tmp_path / "none"), env.get("PYTHONPATH", ""))))
    done = mlflow_wandb(
        "backfill", folder, "--to", store, env={**env, "PYTHONPATH": paths}, cwd=tmp_path
    )
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "MLflow keeps artifacts" in line]
    assert len(lines) == 1
    assert lines[0].startswith("mlflow-wandb: ")
    assert ("No module named" if place == "s3" else "is no folder") in lines[0]
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_created(folder: Path, fresh_store: str, tmp_path: Path) -> None:
    """A file is where MLflow would create the folder of its artifacts."""
    (tmp_path / "occupied").write_text("a file")
    MlflowClient(fresh_store).create_experiment("unit", str(tmp_path / "occupied" / "0"))
    assert "occupied is no folder" in refusal(folder, fresh_store)


def test_a_journal_is_not_kept_waiting_by_a_bad_certificate(
    tmp_path: Path, certificate: Path
) -> None:
    """Its status is `failed` at once, with the reason; the journal stays."""
    path = written(tmp_path, *WHOLE)
    with serving(certificate) as url:
        assert MlflowShipment(path, url, "{project}", True, lambda: True).ship() == "failed"
    assert "certificate" in read_status(path)["error"]
    assert path.exists()
