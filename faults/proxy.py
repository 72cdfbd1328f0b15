"""A proxy on loopback between a client and a real server, that treats requests badly on demand.

It reads whole requests and whole answers (HTTP/1.1), so that a request can be delivered twice, and
an answer be lost after the request took effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

RESET, TOO_MANY, BROKEN, BLACK_HOLE = "reset", "429", "500", "black-hole"
TWICE, ANSWER_LOST = "twice", "answer-lost"
OF_EACH_REQUEST = (RESET, TOO_MANY, BROKEN, BLACK_HOLE)
OF_WRITES = (TWICE, ANSWER_LOST)
WRITES = (b"POST", b"PUT", b"PATCH", b"DELETE")
_NO_BODY = (b"204", b"304")


class Proxies:
    """The event loop, in a thread of its own, that all proxies share."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> Proxies:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=10)
        self.loop.close()

    def call(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(timeout=30)

    def to(self, port: int, seed: str = "", share: float = 0.3) -> Proxy:
        """A proxy to the server at ``port`` of loopback.

        Args:
            share: of the writing requests, those that `TWICE` and `ANSWER_LOST` hit.
        """
        proxy = Proxy(self, port, seed, share)
        self.call(proxy.start())
        return proxy


class Proxy:
    """One proxy; ``fault`` is what happens to requests now, ``hits`` to how many it happened."""

    def __init__(self, proxies: Proxies, port: int, seed: str, share: float) -> None:
        self.fault = ""
        self.hits = 0
        self._proxies = proxies
        self._upstream = port
        self._random, self._share = random.Random(seed), share
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        self._proxies.call(self._close())

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Connections are closed in the loop's next round.
        await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while (request := await _read_request(reader)) is not None:
                if not await self._treat(request, reader, writer):
                    break
        except (OSError, EOFError, asyncio.CancelledError, asyncio.LimitOverrunError, ValueError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _treat(
        self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; returns whether the connection stays."""
        fault = self._fault_of(request)
        self.hits += bool(fault)
        if fault == RESET:
            _reset(writer)
            return False
        if fault == BLACK_HOLE:
            while await reader.read(1 << 16):
                pass
            return False
        if fault in (TOO_MANY, BROKEN):
            writer.write(_refusal(fault))
            await writer.drain()
            return True
        if fault == TWICE:
            await self._forward(request)
        answer = await self._forward(request)
        if fault == ANSWER_LOST:
            _reset(writer)
            return False
        writer.write(answer)
        await writer.drain()
        return True

    def _fault_of(self, request: bytes) -> str:
        if self.fault in OF_WRITES:
            writes = request.split(b" ", 1)[0] in WRITES
            return self.fault if writes and self._random.random() < self._share else ""
        return self.fault

    async def _forward(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream, limit=1 << 20)
        try:
            writer.write(request)
            await writer.drain()
            return await _read_answer(reader, request.split(b" ", 1)[0])
        finally:
            writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _refusal(status: str) -> bytes:
    reason = {TOO_MANY: "Too Many Requests\r\nRetry-After: 1", BROKEN: "Internal Server Error"}
    body = b'{"error": "the campaign refuses"}'
    head = f"HTTP/1.1 {status} {reason[status]}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _read_request(reader: asyncio.StreamReader) -> bytes | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    return head + await _read_body(reader, head, b"")


async def _read_answer(reader: asyncio.StreamReader, method: bytes) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    status = head.split(b" ", 2)[1]
    if status == b"100":
        return await _read_answer(reader, method)
    if method == b"HEAD" or status in _NO_BODY:
        return head
    return head + await _read_body(reader, head, None)


async def _read_body(reader: asyncio.StreamReader, head: bytes, otherwise: bytes | None) -> bytes:
    """The body behind ``head``, as it was sent; without a length it is ``otherwise``, or, if that
    is None, all until the connection ends."""
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
    }
    if b"chunked" in fields.get(b"transfer-encoding", b"").lower():
        return await _read_chunks(reader)
    if b"content-length" in fields:
        return await reader.readexactly(int(fields[b"content-length"]))
    return await reader.read() if otherwise is None else otherwise


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        body += line
        size = int(line.split(b";")[0], 16)
        if size == 0:
            return body + await reader.readuntil(b"\r\n")
        body += await reader.readexactly(size + 2)
