"""The HTTP side: GraphQL, the file stream, uploads and (partial) downloads."""

from __future__ import annotations

import base64
import gzip
import json
import re
import socket
import struct
import traceback
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from .faults import Fault, Request
from .filestream import receive
from .schema.execute import operation_name
from .state import Blob, Run

if TYPE_CHECKING:
    from .server import WandbServer

CHUNK = 64 * 1024


class Dropped(Exception):
    """The connection was cut on purpose."""


class Answer:
    """A status, headers and a body, which may be part of a file."""

    def __init__(
        self, body: bytes = b"", status: int = 200, content_type: str = "application/json"
    ) -> None:
        self.body = body
        self.status = status
        self.headers = {"Content-Type": content_type}

    @classmethod
    def json(cls, value: Any, status: int = 200) -> Answer:
        return cls(json.dumps(value).encode(), status)

    @classmethod
    def error(cls, status: int, message: str) -> Answer:
        return cls.json({"errors": [{"message": message}], "error": message}, status)


class Handler(BaseHTTPRequestHandler):
    """One connection; `server` is set on the class made for each WandbServer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits 40 ms for an acknowledgement
    wandb: WandbServer

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, Dropped, TimeoutError):
            self.close_connection = True

    def _handle(self) -> None:
        body = self._read_body()
        request, payload = self._describe(body)
        self.wandb.record(request)
        faults = self.wandb.faults_for(request)
        for fault in faults:
            self.wandb.wait(fault)
        refusal = next((fault for fault in faults if fault.status is not None), None)
        drop = next((f.drop_after_bytes for f in faults if f.drop_after_bytes is not None), None)
        try:
            answer = _refused(refusal) if refusal else self._answer(request, payload)
        except Exception:
            self.wandb.errors.append(traceback.format_exc())
            answer = Answer.error(500, "the test server failed; see its `errors`")
        for fault in faults:
            if fault.then:
                fault.then()
        request.status = answer.status
        self._send(answer, drop)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _read_body(self) -> bytes:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionError("the client went away in the middle of its request")
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _describe(self, body: bytes) -> tuple[Request, Any]:
        path = urlsplit(self.path).path
        request = Request(self.command, path, headers=dict(self.headers.items()))
        payload: Any = body
        if path == "/graphql":
            payload = json.loads(body or b"{}")
            request.variables = payload.get("variables") or {}
            request.operation = payload.get("operationName") or operation_name(payload["query"])
            request.run = _run_of(request)
        elif path.startswith("/files/"):
            request.run = [*_segments(path), "", "", ""][3]
        return request, payload

    def _answer(self, request: Request, payload: Any) -> Answer:
        parts = _segments(request.path)
        if parts[0] == "storage" and len(parts) >= 2:
            return self._storage(parts[1], payload)
        if not self._authorised():
            return Answer.error(401, "API key not accepted")
        if request.path == "/graphql":
            with self.wandb.store.lock:
                return Answer.json(
                    self.wandb.executor.run(
                        payload["query"], payload.get("variables"), payload.get("operationName")
                    )
                )
        if parts[0] == "files" and len(parts) == 5:
            return self._run_endpoint(parts[1:4], parts[4], payload)
        if parts[0] == "artifactsV2" and len(parts) >= 6:
            return self._artifact_file(parts[2], parts[3], parts[-2])
        return Answer.error(404, f"no such address: {request.path}")

    def _authorised(self) -> bool:
        expected = base64.b64encode(f"api:{self.wandb.api_key}".encode()).decode()
        return self.headers.get("Authorization") == f"Basic {expected}"

    def _run_endpoint(self, names: list[str], last: str, payload: bytes) -> Answer:
        with self.wandb.store.lock:
            project = self.wandb.store.project(names[0], names[1])
            run: Run | None = project.runs.get(names[2]) if project else None
            if run is None:
                return Answer.error(404, "run not found")
            if last == "file_stream" and self.command == "POST":
                writer = self.headers.get("X-WANDB-ASYNC-CLIENT-ID")
                derive = self.headers.get("X-WANDB-SERVER-SIDE-DERIVED-SUMMARY") == "true"
                message = json.loads(payload or b"{}")
                return Answer.json(receive(run, message, writer, derive))
            blob = run.files.get(last)
        return self._download(blob)

    def _artifact_file(self, entity: str, project_name: str, hex_digest: str) -> Answer:
        """A stored file by its content; the address names more than is needed to find it."""
        with self.wandb.store.lock:
            project = self.wandb.store.project(entity, project_name)
            digest = base64.b64encode(bytes.fromhex(hex_digest)).decode()
            blob = self.wandb.store.stored(project, digest) if project else None
        return self._download(blob)

    def _storage(self, token: str, payload: bytes) -> Answer:
        with self.wandb.store.lock:
            blob = self.wandb.store.blobs.get(token)
        if blob is None or self.command != "PUT":
            return self._download(blob)
        blob.fill(payload)
        return Answer()

    def _download(self, blob: Blob | None) -> Answer:
        if blob is None or not blob.uploaded:
            return Answer.error(404, "no such file")
        content = blob.path.read_bytes()
        answer = Answer(content, content_type="application/octet-stream")
        answer.headers["Accept-Ranges"] = "bytes"
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted and any(wanted.groups()):
            size = len(content)
            first, last = _byte_range(wanted[1], wanted[2], size)
            if first >= size:
                return Answer(b"", 416)
            answer.status, answer.body = 206, content[first : last + 1]
            answer.headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return answer

    def _send(self, answer: Answer, drop_after_bytes: int | None) -> None:
        if drop_after_bytes == 0:
            self._drop()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        stop = len(answer.body) if drop_after_bytes is None else drop_after_bytes
        for start in range(0, min(stop, len(answer.body)), CHUNK):
            self.wfile.write(answer.body[start : min(start + CHUNK, stop)])
        if drop_after_bytes is not None:
            self._drop()

    def _drop(self) -> None:
        """Reset the connection, so that the client sees it break and not end."""
        linger = struct.pack("ii", 1, 0)
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        raise Dropped

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: requests are recorded instead."""


def _run_of(request: Request) -> str:
    """The run that an operation is about; most, but not all, name it in the same way."""
    names = ["runName", "run"]
    if request.operation.startswith("Run") or request.operation == "UpsertBucket":
        names.append("name")
    given = request.variables.get("input")
    sources = (request.variables, given if isinstance(given, dict) else {})
    values = (source.get(name) for source in sources for name in names)
    return next((value for value in values if isinstance(value, str)), "")


def _segments(path: str) -> list[str]:
    """The decoded parts of a path; a slash inside a part arrives encoded and stays in it."""
    return [unquote(part) for part in path.strip("/").split("/")]


def _byte_range(first: str, last: str, size: int) -> tuple[int, int]:
    if not first:
        return max(0, size - int(last)), size - 1
    return int(first), min(int(last), size - 1) if last else size - 1


def _refused(fault: Fault) -> Answer:
    assert fault.status is not None
    answer = Answer.error(fault.status, "the test told the server to refuse")
    if fault.retry_after is not None:
        answer.headers["Retry-After"] = f"{fault.retry_after:g}"
    return answer
