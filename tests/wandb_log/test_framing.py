"""The framing of ``.wandb`` files, checked against wandb's own reader and writer."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wandb.proto.wandb_internal_pb2 import Record

from mlflow_wandb_plugin.errors import SourceError
from mlflow_wandb_plugin.wandb_log import framing
from mlflow_wandb_plugin.wandb_log.framing import BLOCK, FILE_HEADER, LogReader
from mlflow_wandb_plugin.wandb_log.log_writer import LogWriter
from tests.support.health_checks import WITH_FIXTURE
from tests.support.processes import run_script
from tests.support.records import output_record

HEADER = 7
ROOM = BLOCK - len(FILE_HEADER) - HEADER
"""Payload that exactly fills the first block."""

near = [0, 1, 2, 6, 7, 8, 13, 14, 15]
edges = [ROOM + sign * delta for delta in near for sign in (1, -1)]
edges += [size + BLOCK - HEADER for size in edges] + [size + 3 * BLOCK for size in edges]
sizes = st.one_of(st.integers(0, 40), st.sampled_from(edges), st.integers(0, 4 * BLOCK))
payloads = st.lists(sizes, max_size=7).map(
    lambda lengths: [random.Random(n).randbytes(size) for n, size in enumerate(lengths)]
)
quick = settings(max_examples=60, suppress_health_check=WITH_FIXTURE)
_number = itertools.count()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def write(folder: Path, records: list[bytes]) -> tuple[Path, list[int]]:
    """A new log with ``records``, and the offset behind each."""
    path = folder / f"{next(_number)}.wandb"
    with LogWriter(path) as log:
        ends = [log.append(record) for record in records]
    return path, ends


def read_all(path: Path) -> tuple[list[bytes], LogReader]:
    reader = LogReader(path)
    records = [frame.payload for frame in reader.read()]
    reader.finish()
    return records, reader


def inspected(path: Path, env: Mapping[str, str]) -> list[dict]:
    """The records as wandb's own command reads them."""
    wandb = str(Path(sys.executable).parent / "wandb")
    command = [wandb, "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, env=dict(env), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


# -- against wandb itself -----------------------------------------------------------------------


def test_wandb_reads_what_the_writer_wrote(folder: Path, env: dict[str, str]) -> None:
    """Records that end around block edges, and ones over several blocks, reach wandb's reader."""
    lengths, position = [], len(FILE_HEADER)
    for left in range(13):
        # Fill the block up to ``left`` bytes, then let a short and a long record follow.
        room = BLOCK - position % BLOCK
        lengths.append(room - HEADER - left if room - HEADER - left >= 30 else room + 1000)
        lengths += [40, 2 * BLOCK + 17 * left]
        path, ends = write(folder, [output_record(n, size) for n, size in enumerate(lengths)])
        position = ends[-1]
    seen = inspected(path, env)
    assert [line["output_raw"]["line"] for line in seen] == [
        Record.FromString(output_record(n, size)).output_raw.line for n, size in enumerate(lengths)
    ]


def test_reader_sees_in_a_real_run_what_wandb_sees(folder: Path, env: dict[str, str]) -> None:
    """All records of a file of wandb-core are read, also those that span blocks."""
    script = """
import wandb
run = wandb.init(project="unit")
for n in range(40):
    run.log({"n": n, "text": "x" * (n * 997 % 70_000)})
run.finish()
"""
    run_script(script, env, folder)
    (path,) = folder.glob("work/wandb/offline-run-*/*.wandb")
    records, reader = read_all(path)
    ours = [Record.FromString(record) for record in records]
    theirs = inspected(path, env)
    assert reader.unreadable == []
    assert [(record.num, record.WhichOneof("record_type")) for record in ours] == [
        (line["num"], line["type"]) for line in theirs
    ]
    rows = [line["history"]["item"] for line in theirs if line["type"] == "history"]
    assert [row["n"] for row in rows] == list(range(40))


# -- there and back -----------------------------------------------------------------------------


@quick
@given(records=payloads)
def test_reader_returns_what_the_writer_took(folder: Path, records: list[bytes]) -> None:
    """Any records are read in order, each with the offset after it, and without damage."""
    path, ends = write(folder, records)
    reader = LogReader(path)
    frames = list(reader.read())
    reader.finish()
    assert [frame.payload for frame in frames] == records
    assert [frame.end for frame in frames] == ends
    assert reader.unreadable == []


@quick
@given(records=payloads, read_size=st.sampled_from([1, 6, 7, 100, BLOCK - 1, BLOCK, BLOCK + 3]))
def test_the_size_of_reads_does_not_matter(
    folder: Path, records: list[bytes], read_size: int
) -> None:
    """A chunk header or record that falls between two reads is put together again."""
    read_size = read_size if sum(map(len, records)) < 3000 else max(read_size, 5000)
    path, _ = write(folder, records)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framing, "READ_SIZE", read_size)
        assert read_all(path)[0] == records


@quick
@given(records=payloads, data=st.data())
def test_following_equals_reading_at_once(
    folder: Path, records: list[bytes], data: st.DataObject
) -> None:
    """A log that grows in arbitrary slices yields the same records, each when it is complete."""
    path, ends = write(folder, records)
    whole = path.read_bytes()
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=6).map(sorted))
    path.write_bytes(b"")
    reader, seen = LogReader(path), []
    for start, stop in itertools.pairwise([0, *cuts, len(whole)]):
        with path.open("ab") as file:
            file.write(whole[start:stop])
        seen += [frame.payload for frame in reader.read()]
        assert len(seen) == sum(end <= stop for end in ends if stop >= len(FILE_HEADER))
    assert seen == records
    assert list(reader.read()) == []
    assert reader.unreadable == []


# -- damage -------------------------------------------------------------------------------------


def assert_cut(path: Path, whole: bytes, records: list[bytes], ends: list[int], cut: int) -> None:
    path.write_bytes(whole[:cut])
    seen, reader = read_all(path)
    count = sum(end <= cut for end in ends)
    assert seen == records[:count]
    if cut < len(FILE_HEADER):
        assert [unreadable.reason for unreadable in reader.unreadable] == [
            "no header: an empty log"
        ]
        return
    begun = ends[count - 1] if count else len(FILE_HEADER)
    if not any(whole[begun:cut]):
        assert reader.unreadable == []
    else:
        (unreadable,) = reader.unreadable
        start = begun + BLOCK - begun % BLOCK if BLOCK - begun % BLOCK < HEADER else begun
        assert (unreadable.offset, unreadable.offset + unreadable.length) == (start, cut)


def test_a_log_cut_anywhere_is_read_up_to_the_cut(folder: Path) -> None:
    """At every byte: the complete records before it are read, the rest is reported."""
    records = [b"first", b"", b"x" * 200, b"last one"]
    path, ends = write(folder, records)
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        assert_cut(path, whole, records, ends, cut)


@pytest.mark.parametrize("left", range(9))
def test_a_log_cut_around_a_block_edge(folder: Path, left: int) -> None:
    """The same where a block's trailer, or a record over three blocks, is cut."""
    records = [b"a" * (ROOM - left), b"b" * 30, b"c" * (2 * BLOCK), b"d"]
    path, ends = write(folder, records)
    whole = path.read_bytes()
    edges = [block * BLOCK for block in (1, 2, 3)] + ends
    for cut in sorted({edge + delta for edge in edges for delta in range(-9, 10)}):
        assert_cut(path, whole, records, ends, min(cut, len(whole)))


@quick
@given(data=st.data())
def test_a_flipped_byte_costs_only_the_record_it_is_in(folder: Path, data: st.DataObject) -> None:
    """All other records are read, and the reported damage covers the byte."""
    lengths = data.draw(st.lists(st.integers(1, 900), min_size=30, max_size=60))
    lengths[10] = BLOCK + 500
    records = [random.Random(n).randbytes(size) for n, size in enumerate(lengths)]
    path, ends = write(folder, records)
    whole = bytearray(path.read_bytes())
    at = data.draw(st.integers(len(FILE_HEADER), len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    seen, reader = read_all(path)
    hit = next(n for n, end in enumerate(ends) if at < end)
    start = ends[hit - 1] if hit else len(FILE_HEADER)
    in_trailer = BLOCK - start % BLOCK < HEADER and at < start + BLOCK - start % BLOCK
    if in_trailer:
        assert seen == records
        return
    lost = [n for n, record in enumerate(records) if record not in seen]
    assert hit in lost
    assert [record for n, record in enumerate(records) if n not in lost] == seen
    assert any(d.offset <= at < d.offset + d.length for d in reader.unreadable)
    for number in lost:
        # Where the length itself is wrong, the next chunk cannot be found before the next block.
        behind = ends[number] - len(records[number]) - HEADER
        assert number == hit or behind // BLOCK == at // BLOCK


def test_a_wrong_checksum_costs_one_record(folder: Path) -> None:
    """A damaged payload is skipped alone: the chunk behind it proves that its length was right."""
    path, ends = write(folder, [b"one", b"two", b"three"])
    whole = bytearray(path.read_bytes())
    whole[ends[1] - 1] ^= 1
    path.write_bytes(whole)
    seen, reader = read_all(path)
    assert seen == [b"one", b"three"]
    (unreadable,) = reader.unreadable
    assert (unreadable.offset, unreadable.length) == (ends[0], ends[1] - ends[0])
    assert unreadable.reason == "checksum mismatch"


@pytest.mark.parametrize("behind", [0, 3, 6])
def test_a_wrong_checksum_before_a_header_that_is_being_written(folder: Path, behind: int) -> None:
    """Whether the damaged record's length is right is not known yet: nothing is said of it until
    the log's end, and the records before it are read."""
    path, ends = write(folder, [b"one", b"two"])
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole + bytes(range(1, 1 + behind)))
    reader = LogReader(path)
    assert [frame.payload for frame in reader.read()] == [b"one"]
    assert (reader.position, reader.unreadable) == (ends[0], [])
    reader.finish()
    (unreadable,) = reader.unreadable
    assert (unreadable.offset, unreadable.length) == (ends[0], ends[1] - ends[0] + behind)


@pytest.mark.parametrize("kind", [0, 5, 255])
def test_a_chunk_of_no_kind_at_the_end_of_a_block(folder: Path, kind: int) -> None:
    """The block is whole, so that its rest is known to be damage, and is reported at once."""
    path, ends = write(folder, [b"one"])
    junk = framing.CHUNK_HEADER.pack(0x01020304, 2, kind).ljust(BLOCK - ends[0], b"j")
    path.write_bytes(path.read_bytes() + junk)
    reader = LogReader(path)
    assert [frame.payload for frame in reader.read()] == [b"one"]
    (unreadable,) = reader.unreadable
    assert (unreadable.offset, unreadable.length) == (ends[0], BLOCK - ends[0])
    assert unreadable.reason == "impossible chunk header"
    assert reader.position == BLOCK


def test_records_behind_an_orphaned_end_are_read(folder: Path) -> None:
    """The last chunk of a record with a damaged beginning does not hide the rest of the block."""
    path, ends = write(folder, [b"a" * (BLOCK + 100), b"sound", b"too"])
    whole = bytearray(path.read_bytes())
    whole[100] ^= 1
    path.write_bytes(whole)
    seen, reader = read_all(path)
    assert seen == [b"sound", b"too"]
    (unreadable,) = reader.unreadable
    assert (unreadable.offset, unreadable.length) == (len(FILE_HEADER), ends[0] - len(FILE_HEADER))


def test_a_record_begun_twice_is_damage_and_the_second_is_read(folder: Path) -> None:
    """A writer that died inside a record and went on left a beginning without an end."""
    path, _ = write(folder, [b"a" * (2 * BLOCK)])
    whole = path.read_bytes()[:BLOCK]
    piece = b"after the crash"
    whole += framing.CHUNK_HEADER.pack(zlib.crc32(piece, zlib.crc32(b"\x01")), len(piece), 1)
    path.write_bytes(whole + piece)
    seen, reader = read_all(path)
    assert seen == [piece]
    (unreadable,) = reader.unreadable
    assert (unreadable.offset, unreadable.length) == (len(FILE_HEADER), BLOCK - len(FILE_HEADER))


@pytest.mark.parametrize("zeros", [1, 6, 7, 100, BLOCK, 3 * BLOCK + 5])
def test_a_tail_of_zeros_is_no_damage(folder: Path, zeros: int) -> None:
    """Space that was reserved and never written holds no record, so none is lost."""
    path, _ = write(folder, [b"one", b"two"])
    with path.open("ab") as file:
        file.write(bytes(zeros))
    seen, reader = read_all(path)
    assert seen == [b"one", b"two"]
    assert reader.unreadable == []


def test_zeros_inside_a_record_are_damage(folder: Path) -> None:
    """A block that never reached the disk took a record with it: that is reported."""
    path, ends = write(folder, [b"one", b"a" * (3 * BLOCK), b"after"])
    whole = bytearray(path.read_bytes())
    whole[BLOCK : 2 * BLOCK] = bytes(BLOCK)
    path.write_bytes(whole)
    seen, reader = read_all(path)
    assert seen == [b"one", b"after"]
    (unreadable,) = reader.unreadable
    assert (unreadable.offset, unreadable.length) == (ends[0], ends[1] - ends[0])


@pytest.mark.parametrize("junk", [b"PK\x03\x04 a zip file", b"\x00" * 50, b":W&B\xe1\xbe\x09rest"])
def test_another_file_is_refused(folder: Path, junk: bytes) -> None:
    """What does not start like a transaction log, or is of a later version, is an error."""
    path = folder / "other.wandb"
    path.write_bytes(junk)
    with pytest.raises(SourceError, match="not a W&B transaction log"):
        list(LogReader(path).read())


def test_a_missing_file_is_an_error_that_names_it(folder: Path) -> None:
    """The message tells the path and the reason."""
    with pytest.raises(SourceError, match=r"gone\.wandb: No such file"):
        list(LogReader(folder / "gone.wandb").read())


def test_the_writer_never_overwrites(folder: Path) -> None:
    """An existing log is not touched."""
    path, _ = write(folder, [b"precious"])
    with pytest.raises(FileExistsError):
        LogWriter(path)
    assert read_all(path)[0] == [b"precious"]
