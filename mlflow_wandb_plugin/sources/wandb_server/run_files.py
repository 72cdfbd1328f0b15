"""Download a run's files, console log and system metrics from a W&B server.

Local names are made safe: a file name that the server sends cannot lead out of the folder.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.model import FileRef, Item, Series, UnreadableRange
from mlflow_wandb_plugin.errors import DamagedDownloadError, SourceError, SourceUnavailableError
from mlflow_wandb_plugin.mapping.names import safe_path
from mlflow_wandb_plugin.sources.temp_dirs import RefCountedTempDir
from mlflow_wandb_plugin.wandb_api.client import WandbClient, one_line
from mlflow_wandb_plugin.wandb_log.decoder import BLOCK_POINTS
from mlflow_wandb_plugin.wandb_log.metadata_file import METADATA_FILE, json_object
from mlflow_wandb_plugin.wandb_log.system_stats import measured

CONSOLE_FILE = "output.log"
FILES_A_PAGE = 100
LINES_A_PAGE = 10_000

FILES = """
query RunFiles($entity: String!, $project: String!, $run: String!, $cursor: String,
               $perPage: Int) {
  project(name: $project, entityName: $entity) {
    run(name: $run) {
      files(after: $cursor, first: $perPage) {
        edges { node { name url directUrl sizeBytes md5 } cursor }
        pageInfo { endCursor hasNextPage }
      }
    }
  }
}
"""

CONSOLE = """
query RunConsoleLogPage($entity: String!, $project: String!, $run: String!, $first: Int,
                        $after: String) {
  project(name: $project, entityName: $entity) {
    run(name: $run) {
      logLines(first: $first, after: $after) {
        edges { node { line } }
        pageInfo { endCursor hasNextPage }
      }
    }
  }
}
"""

EVENTS = """
query RunFullHistory($entity: String!, $project: String!, $run: String!, $samples: Int) {
  project(name: $project, entityName: $entity) { run(name: $run) { events(samples: $samples) } }
}
"""


class RunDownloads:
    """Downloads the files of one run into ``folder``.

    Attributes:
        metadata: content of wandb-metadata.json, once `new_files` has yielded it.
        damaged: whether a file that arrived is not the one that the server lists.
    """

    def __init__(self, client: WandbClient, run_id: str, folder: RefCountedTempDir) -> None:
        self.metadata: Mapping[str, Any] = {}
        self.damaged = False
        self._client = client
        self._run_id = run_id
        self._folder = folder
        self._where = f"{client.address.path}/{run_id}"
        self._names: set[str] = set()

    def new_files(self) -> Iterator[Item]:
        """Yield every file of the run that no earlier call has yielded.

        A file that the server lists and does not return is reported, and its `FileRef` has no local
        file. One that arrives with another digest is reported alone: a later read may get it.

        Raises:
            SourceUnavailableError: the server does not answer.
        """
        for node in list_files(self._client, self._run_id):
            name = str(node["name"])
            if name in self._names:
                continue
            self._names.add(name)
            local = self._folder.new_file(safe_path(name).rpartition("/")[2])
            place = one_line(f"{self._where}: file {name}"), 0, number(node.get("sizeBytes"))
            try:
                fetch(self._client, node, local, str(node.get("md5") or ""))
            except SourceUnavailableError:
                raise
            except DamagedDownloadError as error:
                self.damaged = True
                yield UnreadableRange(*place, str(error), lost=False)
                continue
            except SourceError as error:
                local.unlink(missing_ok=True)
                yield UnreadableRange(*place, str(error))
            else:
                if name == METADATA_FILE:
                    self.metadata = json_object(local)
            yield FileRef(name, local)

    def console(self, lines: int) -> Iterator[Item]:
        """Yield the console log of a run that did not upload it as a file: it runs, or was killed.

        Args:
            lines: the server's count of lines.
        """

        def page(cursor: str | None) -> Any:
            run = self._client.run(CONSOLE, self._run_id, first=LINES_A_PAGE, after=cursor)
            return run.get("logLines")

        if not lines or CONSOLE_FILE in self._names:
            return
        local = self._folder.new_file(CONSOLE_FILE)
        with open(local, "w", encoding="utf-8", errors="surrogatepass") as file:
            for node in self._client.pages(page):
                file.write(f"{node.get('line') or ''}".rstrip("\n") + "\n")
        yield FileRef(CONSOLE_FILE, local)

    def system_metrics(self, lines: int) -> Iterator[Item]:
        """Yield the system metrics; an `UnreadableRange` if the server has not all ``lines``."""
        if not lines:
            return
        run = self._client.run(EVENTS, self._run_id, samples=2 * lines + 1000)
        texts: list[str] = list(run.get("events") or ())
        if len(texts) < lines:
            reason = f"the server returns {len(texts)} of {lines} lines"
            where = f"{self._where}: system metrics"
            yield UnreadableRange(where, len(texts), lines - len(texts), reason, "lines")
        columns: dict[str, tuple[list[int], list[float]]] = {}
        points = 0
        for text in texts:
            points += _add_event(columns, text)
            if points >= BLOCK_POINTS:
                yield from _system_series(columns)
                columns, points = {}, 0
        yield from _system_series(columns)


def list_files(client: WandbClient, run_id: str) -> Iterator[dict[str, Any]]:
    """Yield the files of a run, as the server describes them."""

    def page(cursor: str | None) -> Any:
        return client.run(FILES, run_id, cursor=cursor, perPage=FILES_A_PAGE).get("files")

    return client.pages(page)


def fetch(client: WandbClient, node: Mapping[str, Any], local: Path, digest: str = "") -> None:
    """Download a file that the server describes, again if its content has not the digest.

    Args:
        digest: its MD5; empty, or one of another kind, is not compared.

    Raises:
        SourceError: the server does not return it.
        DamagedDownloadError: it arrived twice with another digest.
    """
    urls = [str(url) for url in (node.get("directUrl"), node.get("url")) if url]
    if not urls:
        raise SourceError("the server sends no address for it")
    expected = _md5(digest)
    for order in (urls, urls[::-1]):
        arrived = _download(client, order, local)
        if expected is None or expected == arrived:
            return
    local.unlink(missing_ok=True)
    raise DamagedDownloadError("the downloaded file has another digest than W&B lists")


def _download(client: WandbClient, urls: list[str], local: Path) -> bytes:
    """Download from the first address that works; returns the MD5."""
    for url in urls[:-1]:
        try:
            return client.download(url, local)
        except SourceUnavailableError:
            raise
        except SourceError:
            # A signed address may have expired; the other one needs the API key and does not.
            local.unlink(missing_ok=True)
    return client.download(urls[-1], local)


def _md5(text: str) -> bytes | None:
    """Parse an MD5 in base64, as W&B writes digests, or in hexadecimal; None if it is another."""
    try:
        digest = bytes.fromhex(text) if len(text) == 32 else base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return digest if len(digest) == 16 else None


def _add_event(columns: dict[str, tuple[list[int], list[float]]], text: str) -> int:
    """Add one line of system metrics; returns the number of its points."""
    try:
        event = json.loads(text)
        at_ms = int(event["_timestamp"] * 1000)
    except (ValueError, TypeError, KeyError, OverflowError):
        return 0
    points = 0
    for name, value in event.items():
        if name.startswith("_"):
            continue
        for key, sample in measured(name.removeprefix("system."), value):
            times, values = columns.setdefault(key, ([], []))
            times.append(at_ms)
            values.append(sample)
            points += 1
    return points


def _system_series(columns: Mapping[str, tuple[list[int], list[float]]]) -> Iterator[Series]:
    for name, (times, values) in columns.items():
        yield Series((name,), [0] * len(times), times, values, "system")


def number(value: Any) -> int:
    """Parse a count that the server sends as a number, as text, or not at all (0)."""
    try:
        return int(value or 0)
    except (TypeError, ValueError):
        return 0
