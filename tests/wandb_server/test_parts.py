"""The parts that need no client: documents, filters, pages, ranges."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from . import WandbServer
from .filters import MISSING, matches
from .history import History
from .schema.connection import connection
from .schema.execute import Executor, View, obj


class Root(View):
    typename = "Query"
    strict = True

    def thing(self, size: int = 1) -> dict[str, Any]:
        return obj("Thing", size=size, twice=lambda by=2: size * by, list=[obj("Part", n=1)])


def run(document: str, **variables: Any) -> dict[str, Any]:
    return Executor({"query": Root}).run(document, variables, None)


def test_documents_with_aliases_fragments_and_directives_are_understood() -> None:
    """What clients write in GraphQL comes out in the shape they asked for."""
    document = """
        query Q($size: Int = 3, $no: Boolean = false) {
            first: thing(size: $size) { ...T absent list { n } }
            thing { size @skip(if: true) twice(by: 5) gone: size @include(if: $no) }
        }
        fragment T on Thing { size __typename ... on Other { twice } ... on Thing { twice } }
    """
    assert run(document) == {
        "data": {
            "first": {
                "size": 3,
                "__typename": "Thing",
                "twice": 6,
                "absent": None,
                "list": [{"n": 1}],
            },
            "thing": {"twice": 5},
        }
    }
    assert run(document, size=4)["data"]["first"]["size"] == 4


def test_unknown_roots_and_broken_documents_are_errors() -> None:
    """A gap in this server, or nonsense, is not answered with null."""
    assert "nope" in run("{ nope }")["errors"][0]["message"]
    assert "Syntax Error" in run("{ thing")["errors"][0]["message"]


def test_unknown_fields_are_noted() -> None:
    """A field that this server lacks is null, and can be found out afterwards."""
    executor = Executor({"query": Root})
    executor.run("{ thing { colour } }", None, "")
    assert executor.unknown == {("Thing", "colour")}


@given(count=st.integers(0, 50), size=st.integers(1, 20))
def test_pages_hold_every_item_once(count: int, size: int) -> None:
    """Following cursors to the end gives the list back."""
    items = list(range(count))
    seen: list[int] = []
    after = None
    while True:
        page = connection("N", items, lambda item: item, size, after)
        seen += [edge["node"] for edge in page["edges"]]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
    assert seen == items


@pytest.mark.parametrize(
    ("value", "condition", "expected"),
    [
        (MISSING, None, True),
        (MISSING, {"$ne": 1}, True),
        (MISSING, {"$gt": 0}, False),
        (1, True, False),
        ("2024-01-01T00:00:00Z", "2024-01-01T00:00:00+00:00", True),
        ("b", {"$gt": "a", "$not": {"$in": ["c"]}}, True),
        (3, {"$gt": "2"}, False),
        (["x"], {"$ne": "x"}, False),
        ("Abc", {"$regex": "^a", "$options": "i"}, True),
    ],
)
def test_filters_follow_mongo(value: Any, condition: Any, expected: bool) -> None:
    """Missing fields, lists, dates and mixed types compare as Mongo compares them."""
    lookup: Callable[[str], Any] = {"field": value}.__getitem__
    assert matches(lookup, {"field": condition}) is expected
    assert matches(lookup, {"$nor": [{"field": condition}]}) is not expected


@given(st.lists(st.integers(1, 5), max_size=6), st.randoms())
def test_repeated_lines_are_stored_once(sizes: list[int], random: Any) -> None:
    """However often a message is repeated, history is what was sent."""
    history, offset = History(), 0
    for size in sizes:
        lines = [f'{{"_step": {offset + i}}}' for i in range(size)]
        for _ in range(random.randint(1, 3)):
            history.write(offset, lines)
        offset += size
    assert [line.step for line in history.live] == list(range(offset))


def test_lines_repeated_after_their_export_change_nothing(server: WandbServer) -> None:
    """A late repetition of exported lines leaves both exports and live tail alone."""
    run = server.add_run("parts", "late")
    lines = [f'{{"_step": {i}}}' for i in range(10)]
    run.history.write(0, lines)
    server.parquet(run, 6)
    for first, last in [(0, 3), (4, 8), (0, 10)]:
        run.history.write(first, lines[first:last])
        assert run.history.exported_rows == 6
        assert [line.step for line in run.history.live] == [6, 7, 8, 9]


def test_downloads_honour_ranges(server: WandbServer) -> None:
    """Part of a file is given for a range, and a range past the end is refused."""
    blob = server.store.new_blob(b"0123456789")
    for wanted, status, body in [
        ("bytes=2-4", 206, b"234"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-3", 206, b"789"),
        ("bytes=8-99", 206, b"89"),
        ("bytes=10-", 416, b""),
    ]:
        client = http.client.HTTPConnection(server.url.removeprefix("http://"))
        client.request("GET", f"/storage/{blob.token}/x", headers={"Range": wanted})
        answer = client.getresponse()
        assert (answer.status, answer.read()) == (status, body)
        client.close()


def test_leaving_the_server_ends_waiting_connections(tmp_path: Path) -> None:
    """An idle connection and a gate that nobody opens do not keep the server from closing."""
    with WandbServer(tmp_path) as server:
        idle = http.client.HTTPConnection(server.url.removeprefix("http://"))
        idle.request("GET", "/storage/none")
        assert idle.getresponse().read()
        address = f"{server.url}/storage/none"
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address)
    idle.close()
