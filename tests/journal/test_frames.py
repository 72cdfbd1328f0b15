"""The journal: everything appended is read, whatever fails around it."""

from __future__ import annotations

import json
import os
import random
import stat
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_wandb_plugin.errors import JournalError
from mlflow_wandb_plugin.journal import frames as journal
from mlflow_wandb_plugin.journal import reader as reader_module
from mlflow_wandb_plugin.journal import writer as writer_module
from mlflow_wandb_plugin.journal.frames import (
    HEADER,
    NOTE,
    RECORD,
)
from mlflow_wandb_plugin.journal.journal_locks import remove_journal, shipping_lock, trainer_alive
from mlflow_wandb_plugin.journal.reader import JournalReader, read_header
from mlflow_wandb_plugin.journal.status_file import read_status, write_status
from mlflow_wandb_plugin.journal.writer import Journal
from tests.support.health_checks import WITH_FIXTURE
from tests.support.modes import no_umask, open_to_others
from tests.support.processes import wait_until

quick = settings(max_examples=50, suppress_health_check=WITH_FIXTURE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.journal"


def written(path: Path, payloads: list[bytes]) -> list[int]:
    """A new journal of records; returns the offset behind each frame, the header's first."""
    path.unlink(missing_ok=True)
    ours = Journal(path, {"run_id": "r"})
    ends = [path.stat().st_size]
    for payload in payloads:
        ours.append(RECORD, payload)
        ends.append(path.stat().st_size)
    ours.close()
    return ends


def test_the_format_on_disk(path: Path) -> None:
    """Journals of an earlier version of the package are still to be delivered: these bytes stay."""
    ours = Journal(path, {"run_id": "r"})
    ours.append(RECORD, b"abc")
    ours.close()
    header = b'{"format": 1, "run_id": "r"}'
    frames = bytearray()
    for kind, payload in ((1, header), (2, b"abc")):
        checksum = zlib.crc32(payload, kind)
        frames += struct.pack("<HHII", 0xB57A, kind, len(payload), checksum) + payload
    assert path.read_bytes()[: len(frames)] == frames
    assert journal.NOTE == 3
    assert (journal.SUFFIX, journal.JOURNAL_DIR) == (".journal", "mlflow")


def records(reader: JournalReader) -> list[bytes]:
    return [frame.payload for frame in reader.read() if frame.kind == RECORD]


def read_all(path: Path) -> tuple[list[bytes], JournalReader]:
    reader = JournalReader(path)
    found = records(reader)
    reader.finish()
    return found, reader


# -- there and back -----------------------------------------------------------------------------


@quick
@given(
    payloads=st.lists(st.binary(max_size=300), max_size=12),
    read_size=st.sampled_from([1, 5, 11, 12, 13, 64, 1024]),
)
def test_frames_come_back_whatever_the_size_of_reads(
    path: Path, payloads: list[bytes], read_size: int
) -> None:
    """A header or payload that is split between two reads is joined."""
    ends = written(path, payloads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader_module, "READ_SIZE", read_size)
        reader = JournalReader(path)
        frames = list(reader.read())
    assert [frame.end for frame in frames] == ends
    assert [frame.payload for frame in frames[1:]] == payloads
    assert reader.unreadable == []


def test_a_record_larger_than_a_read(path: Path) -> None:
    """A record of several megabytes is read completely, and so is the next one."""
    large = random.Random(0).randbytes(3 * reader_module.READ_SIZE + 5)
    written(path, [large, b"small"])
    assert read_all(path)[0] == [large, b"small"]


@quick
@given(payloads=st.lists(st.binary(max_size=60), max_size=8), data=st.data())
def test_following_equals_reading_at_once(
    path: Path, payloads: list[bytes], data: st.DataObject
) -> None:
    """With slices of any size each record is read once, as soon as it is complete."""
    ends = written(path, payloads)
    whole = path.read_bytes()
    cuts = [*sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6))), len(whole)]
    path.write_bytes(b"")
    reader, seen, start = JournalReader(path), 0, 0
    for cut in cuts:
        with path.open("ab") as file:
            file.write(whole[start:cut])
        start = cut
        seen += len(list(reader.read()))
        assert seen == sum(end <= cut for end in ends)
    assert reader.unreadable == []


# -- damage -------------------------------------------------------------------------------------


def test_a_journal_cut_anywhere_is_read_up_to_the_cut(path: Path) -> None:
    """For a cut at every byte, earlier frames are read and the rest is reported."""
    payloads = [b"one", b"", b"three" * 20]
    ends = written(path, payloads)
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        reader = JournalReader(path)
        frames = list(reader.read())
        reader.finish()
        sound = [end for end in ends if end <= cut]
        assert [frame.end for frame in frames] == sound
        start = sound[-1] if sound else 0
        expected = [(start, cut - start)] if cut > start else []
        assert [
            (unreadable.offset, unreadable.length) for unreadable in reader.unreadable
        ] == expected


@quick
@given(data=st.data())
def test_a_damaged_frame_loses_only_itself(path: Path, data: st.DataObject) -> None:
    """The frames around a damaged one (full disk, then space again) are read."""
    payloads = [bytes([65 + n]) * data.draw(st.integers(0, 40)) for n in range(6)]
    ends = written(path, payloads)
    whole = path.read_bytes()
    hit = data.draw(st.integers(1, 5))
    first, last = ends[hit - 1], ends[hit]
    if data.draw(st.booleans()):
        cut = data.draw(st.integers(first + 1, last - 1))
        changed = whole[:cut] + whole[last:]
    else:
        at = data.draw(st.integers(first, last - 1))
        changed = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    path.write_bytes(changed)
    found, reader = read_all(path)
    assert found == payloads[: hit - 1] + payloads[hit:]
    assert reader.unreadable[0].offset == first


def test_damage_at_the_end_of_a_growing_journal_is_not_judged_too_early(path: Path) -> None:
    """An incomplete frame may still be completed: only a later frame or the end decides."""
    written(path, [b"one", b"two"])
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    reader = JournalReader(path)
    assert records(reader) == [b"one"]
    assert reader.unreadable == []
    path.write_bytes(whole)
    assert records(reader) == [b"two"]


def test_a_record_that_holds_frames_is_one_record(path: Path) -> None:
    """Also if it is so large that its end is read much later than the frames in it."""
    written(path, [b"inner", b"frames"])
    payload = path.read_bytes() + bytes(3 * reader_module.READ_SIZE)
    written(path, [payload, b"after"])
    found, reader = read_all(path)
    assert found == [payload, b"after"]
    assert reader.unreadable == []


@pytest.mark.parametrize("torn", [False, True])
def test_the_effort_of_reading_grows_with_the_size_alone(
    path: Path, torn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record made of what looks like headers of long frames is not verified from each."""
    header = reader_module.FRAME_HEADER.pack(journal.MAGIC, RECORD, 200_000, 0)
    payload = header * (4 * reader_module.READ_SIZE // len(header))
    written(path, [payload])
    size = path.stat().st_size
    if torn:
        os.truncate(path, size - 1)
    verified, crc32 = 0, zlib.crc32

    def counting(data: bytes, start: int = 0) -> int:
        nonlocal verified
        verified += len(data)
        return crc32(data, start)

    monkeypatch.setattr(zlib, "crc32", counting)
    found, reader = read_all(path)
    assert found == ([] if torn else [payload])
    assert len(reader.unreadable) == torn
    assert verified < 40 * size


@pytest.mark.parametrize("content", [b"", b"not a journal", bytes(200)])
def test_a_file_that_is_no_journal(path: Path, content: bytes) -> None:
    """It has neither a header nor records."""
    path.write_bytes(content)
    with pytest.raises(JournalError, match="holds no journal"):
        read_header(path)
    found, reader = read_all(path)
    assert found == []
    assert [(unreadable.offset, unreadable.length) for unreadable in reader.unreadable] == (
        [(0, len(content))] if content else []
    )


# -- headers and notes --------------------------------------------------------------------------


def test_header_and_notes_are_json(path: Path) -> None:
    """The header is read alone; notes are between the records in their order."""
    ours = Journal(path, {"run_id": "r", "name": "é"})
    ours.append(RECORD, b"x")
    ours.note(closed=True)
    ours.close()
    assert read_header(path) == {"format": journal.FORMAT, "run_id": "r", "name": "é"}
    frames = list(JournalReader(path).read())
    assert [frame.kind for frame in frames] == [HEADER, RECORD, NOTE]
    assert frames[2].document() == {"closed": True}


def test_a_journal_of_a_later_version_is_refused(path: Path) -> None:
    """The error message asks for an update of the package."""
    ours = Journal(path, {})
    ours.close()
    path.write_bytes(b"")
    later = Journal(path, {"format": 99})
    later.close()
    with pytest.raises(JournalError, match="another version of mlflow-wandb-plugin: update it"):
        read_header(path)


# -- writers ------------------------------------------------------------------------------------


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    """Journals and status files have configs: nobody else may read them with any umask."""
    folder = tmp_path / "wandb" / "mlflow"
    with no_umask():
        folder.parent.mkdir()
        Journal(folder / "run.journal", {}).close()
        write_status(folder / "run.journal", {})
        with shipping_lock(folder / "run.journal"):
            pass
    assert len(list(folder.iterdir())) == 3
    assert open_to_others(folder) == []


@pytest.mark.parametrize(("place", "mode"), [("wandb/mlflow", 0o700), ("chosen", 0o755)])
def test_a_folder_of_journals_that_exists_is_closed_where_it_is_ours(
    tmp_path: Path, place: str, mode: int
) -> None:
    """Earlier versions made it by the umask; a folder that the user has set stays as it is."""
    folder = tmp_path / place
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    Journal(folder / "run.journal", {}).close()
    assert stat.S_IMODE(folder.stat().st_mode) == mode


def test_a_journal_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """Neither written nor read: it may name any file of the user's."""
    target = tmp_path / "real.journal"
    Journal(target, {}).close()
    content = target.read_bytes()
    link = tmp_path / "link.journal"
    link.symlink_to(target)
    with pytest.raises(JournalError, match="symbolic link"):
        Journal(link, {})
    with pytest.raises(JournalError, match="symbolic link"):
        read_header(link)
    assert target.read_bytes() == content


def test_forked_children_and_threads_append_complete_frames(path: Path) -> None:
    """Eight processes and their threads write one journal, and all frames are intact."""
    script = f"""
import os, sys, threading
from pathlib import Path
from mlflow_wandb_plugin.journal.frames import RECORD
from mlflow_wandb_plugin.journal.writer import Journal
journal = Journal(Path({str(path)!r}), {{}})
def write(who):
    for n in range(50):
        journal.append(RECORD, f"{{who}} {{n}} ".encode() + b"x" * (n * 97 % 9000))
children = []
for number in range(8):
    pid = os.fork()
    if pid == 0:
        threads = [threading.Thread(target=write, args=(f"{{number}}.{{t}}",)) for t in range(2)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        os._exit(0)
    children.append(pid)
write("parent")
for pid in children: assert os.waitpid(pid, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    found, reader = read_all(path)
    assert reader.unreadable == []
    by_writer: dict[str, list[int]] = {}
    for payload in found:
        who, number, filler = payload.decode().split(" ")
        assert filler == "x" * (int(number) * 97 % 9000)
        by_writer.setdefault(who, []).append(int(number))
    assert len(by_writer) == 17
    assert all(numbers == list(range(50)) for numbers in by_writer.values())


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    """The message has the file and the reason."""
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=r"cannot write the journal .*x\.journal: "):
        Journal(tmp_path / "file" / "x.journal", {})


def test_a_full_disk_is_an_error_and_the_rest_is_readable(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that was written in part raises an error, and is read as damage later."""
    ours = Journal(path, {})
    ours.append(RECORD, b"before")
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(writer_module.os, "write", lambda fd, data: real(fd, data[: len(data) // 2]))
        with pytest.raises(JournalError, match="only part of a record"):
            ours.append(RECORD, b"torn" * 10)
    ours.append(RECORD, b"after")
    ours.close()
    found, reader = read_all(path)
    assert found == [b"before", b"after"]
    assert len(reader.unreadable) == 1


# -- locks and status ---------------------------------------------------------------------------


def test_a_trainer_is_alive_while_it_has_the_journal_open(path: Path) -> None:
    """It counts as alive in its own process too, but not after closing the journal."""
    assert not trainer_alive(path)
    ours = Journal(path, {})
    assert trainer_alive(path)
    ours.close()
    assert not trainer_alive(path)


def test_a_killed_trainer_is_not_alive(path: Path) -> None:
    """The kernel releases its lock when the process ends, however it ends."""
    script = (
        "import sys; from pathlib import Path\n"
        "from mlflow_wandb_plugin.journal.writer import Journal\n"
        f"journal = Journal(Path({str(path)!r}), {{}}); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    try:
        wait_until(lambda: trainer_alive(path), what="the trainer's lock")
        process.kill()
        process.wait(timeout=30)
        assert not trainer_alive(path)
    finally:
        process.kill()
        process.communicate()


def test_two_tests_for_a_trainer_do_not_see_each_other(path: Path) -> None:
    """Two processes that test for a trainer do not mistake each other for it."""
    Journal(path, {}).close()
    wrong: list[bool] = []

    def ask() -> None:
        wrong.extend(trainer_alive(path) for _ in range(3000))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(wrong)


def test_one_ships_at_a_time(path: Path) -> None:
    """The second process gets the lock only after the first has released it."""
    Journal(path, {}).close()
    with shipping_lock(path) as first:
        with shipping_lock(path) as second:
            assert (first, second) == (True, False)
    with shipping_lock(path) as third:
        assert third


def test_a_status_is_replaced_in_one_step(path: Path) -> None:
    """A reader sees the old status or the new one, never a part."""
    stop = threading.Event()
    seen: list[dict[str, object]] = []

    def read() -> None:
        while not stop.is_set():
            seen.append(read_status(path))

    write_status(path, {"n": 0, "filler": "x" * 50_000})
    reader = threading.Thread(target=read)
    reader.start()
    for number in range(200):
        write_status(path, {"n": number, "filler": "x" * 50_000})
    stop.set()
    reader.join()
    assert all(len(str(status.get("filler"))) == 50_000 for status in seen)
    assert list(path.parent.glob(".*")) == []


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff"])
def test_a_status_that_cannot_be_read_is_empty(path: Path, text: str) -> None:
    """An unreadable status counts as none."""
    path.with_suffix(".status").write_text(text, encoding="latin-1")
    assert read_status(path) == {}


def test_a_shipped_journal_leaves_its_status(path: Path) -> None:
    """`remove_journal` may be called again."""
    Journal(path, {}).close()
    write_status(path, {"state": "complete"})
    with shipping_lock(path):
        remove_journal(path)
        remove_journal(path)
    assert [file.name for file in path.parent.iterdir()] == ["run.status"]
    assert json.loads(path.with_suffix(".status").read_text()) == {"state": "complete"}
