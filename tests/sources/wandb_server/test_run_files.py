"""Files, console log, system metrics and artifacts of a W&B server are read completely."""

from __future__ import annotations

import base64
import gc
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.core.model import ArtifactRef, FileRef, RowObjects, Selection
from mlflow_wandb_plugin.errors import SourceUnavailableError
from mlflow_wandb_plugin.sources.temp_dirs import RefCountedTempDir
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.support.environment import isolated
from tests.support.mlflow_state import read_runs
from tests.support.processes import run_script
from tests.support.wandb_source import only_run, read_run, source_of
from tests.wandb_server import WandbServer
from tests.wandb_server.clients import Worker

HOSTILE = {
    "../up.txt": b"up",
    "../../../../etc/passwd": b"root",
    "/absolute.txt": b"absolute",
    "nul\0.txt": b"nul",
    "n" * 4096: b"long",
    "a/b c%?#.txt": b"odd",
    "Same.txt": b"upper",
    "same.txt": b"lower",
    "dir/../../x": b"climbs",
    "tab\tand\nline": b"control",
}


def events(count: int) -> list[str]:
    return [
        json.dumps({"system.cpu": i, "system.gpu.0.temp": 40.5, "_timestamp": 1.7e9 + i * 15})
        for i in range(count)
    ]


def test_hostile_names_stay_inside_the_folder(wandb: WandbServer) -> None:
    """Files of any name are complete, have their names, and stay in the folder."""
    wandb.add_run("hostile", "../../etc", files=HOSTILE, rows=[{"x": 1}])
    source = source_of(wandb, "hostile")
    info = only_run(source)
    assert info.run_id == "../../etc"
    refs = [item for item in source.read(info, {}) if isinstance(item, FileRef)]
    assert {ref.path: ref.local.read_bytes() for ref in refs} == HOSTILE
    folders = {ref.local.resolve().parent.parent for ref in refs}
    assert len(folders) == 1
    assert folders.pop().name.startswith("mlflow-wandb-read-")
    assert len({str(ref.local).lower() for ref in refs}) == len(refs)


def test_downloads_last_as_long_as_their_paths_are_held(wandb: WandbServer) -> None:
    """A target may read them after the last item; then the folder is removed."""
    wandb.add_run("lent", "r", files={"a.txt": b"a"}, rows=[{"x": 1}])
    source = source_of(wandb, "lent")
    refs = [item for item in source.read(only_run(source), {}) if isinstance(item, FileRef)]
    folder = refs[0].local.resolve().parent.parent
    gc.collect()
    assert refs[0].local.read_bytes() == b"a"
    refs.clear()
    gc.collect()
    assert not folder.exists()


def test_a_read_that_is_given_up_leaves_nothing(wandb: WandbServer) -> None:
    """Closing the iterator in the middle removes the folder."""
    run = wandb.add_run("given-up", "r", rows=[{"x": i} for i in range(10)], files={"a": b"a"})
    wandb.parquet(run)
    source = source_of(wandb, "given-up")
    items = source.read(only_run(source), {})
    local = next(item.local for item in items if isinstance(item, FileRef))
    folder = local.resolve().parent.parent
    assert folder.is_dir()
    del items, local
    gc.collect()
    assert not folder.exists()


def test_files_of_one_name_do_not_collide() -> None:
    """Two files of one name are in two folders."""
    folder = RefCountedTempDir("mlflow-wandb-test-")
    one, two = folder.new_file("x"), folder.new_file("x")
    one.write_text("one")
    two.write_text("two")
    assert (one.read_text(), two.read_text()) == ("one", "two")


def test_folders_of_killed_readers_are_removed(tmp_path: Path) -> None:
    """The next folder clears away what a killed process left, and nothing that is in use."""
    code = (
        "import os, signal\n"
        "from mlflow_wandb_plugin.sources.temp_dirs import RefCountedTempDir\n"
        "folder = RefCountedTempDir('mlflow-wandb-killed-')\n"
        "folder.new_file('x').write_text('x')\n"
        "print(folder.path, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ours = RefCountedTempDir("mlflow-wandb-killed-")
    env = {**isolated(tmp_path), "TMPDIR": tempfile.gettempdir()}
    done = run_script(code, env, tmp_path, check=False)
    left = Path(done.stdout.strip())
    assert (left / "000001" / "x").is_file()
    RefCountedTempDir("mlflow-wandb-killed-")
    assert not left.exists()
    assert ours.path.is_dir()


def test_media_come_before_the_rows_that_show_them(wandb: WandbServer) -> None:
    """The file of a picture is yielded before its row."""
    path = "media/images/x_0_abc.png"
    picture = {"_type": "image-file", "path": path}
    wandb.add_run("media", "r", rows=[{"picture": picture}], files={path: b"png"})
    source = source_of(wandb, "media")
    kinds = [
        type(item)
        for item in source.read(only_run(source), {})
        if isinstance(item, (FileRef, RowObjects))
    ]
    assert kinds == [FileRef, RowObjects]


def test_media_of_rows_logged_during_the_read_are_read(wandb: WandbServer) -> None:
    """A running run's files are listed again behind its rows; those known are not fetched twice."""
    path = "media/images/x_1_abc.png"
    run = wandb.add_run("media-late", "r", files={"a": b"a"}, state="running")

    def grow() -> None:
        wandb.grow(run, [{"picture": {"_type": "image-file", "path": path}}])
        run.files[path] = wandb.store.new_blob(b"png")

    wandb.fail("RunParquetHistory", before=grow)
    source = source_of(wandb, "media-late")
    read = read_run(source)
    assert read.files == {"a": b"a", path: b"png"}
    assert source.calls["download"] == 2


def test_a_file_that_the_server_does_not_give_is_reported(wandb: WandbServer) -> None:
    """The rest of the run is read; the report names the file, and the target counts it."""
    run = wandb.add_run("gone", "r", files={"here": b"1", "gone": b"22"}, rows=[{"x": 1}])
    blob = run.files["gone"]
    wandb.fail(lambda request: blob.token in request.path, status=404, times=None)
    wandb.fail("GET /files/*/gone", status=404, times=None)
    read = read_run(source_of(wandb, "gone"))
    assert read.files == {"here": b"1", "gone": None}
    (unreadable,) = read.unreadable
    assert "file gone" in str(unreadable)
    assert "404" in str(unreadable)
    assert read.last.missing is False
    assert read.values("x") == {0: 1.0}


def test_a_signed_address_that_ran_out_is_replaced(wandb: WandbServer) -> None:
    """The file's other address needs the key, and serves it."""
    run = wandb.add_run("expired", "r", files={"a b/c.txt": b"content"})
    token = run.files["a b/c.txt"].token
    wandb.fail(lambda request: token in request.path, status=403, times=None)
    read = read_run(source_of(wandb, "expired"))
    assert (read.files, read.unreadable) == ({"a b/c.txt": b"content"}, [])


def test_a_file_that_is_cut_is_fetched_again(wandb: WandbServer) -> None:
    """An incomplete file is not accepted."""
    run = wandb.add_run("cut", "r", files={"big.bin": b"x" * 300_000})
    token = run.files["big.bin"].token
    rule = wandb.fail(lambda request: token in request.path, drop_after_bytes=70_000)
    assert read_run(source_of(wandb, "cut")).files == {"big.bin": b"x" * 300_000}
    assert rule.hits == 1


def corrupt_once(wandb: WandbServer, blob: Any) -> None:
    """Send other content of the same length to the next request for ``blob``."""
    whole = blob.path.read_bytes()
    wandb.fail(
        lambda request: blob.token in request.path,
        before=lambda: blob.path.write_bytes(bytes(len(whole))),
        then=lambda: blob.path.write_bytes(whole),
    )


@pytest.mark.parametrize("form", ["base64", "hex", "other"])
def test_a_file_with_another_md5_is_fetched_again(wandb: WandbServer, form: str) -> None:
    """In both forms of an MD5; with a digest of another kind it is taken as it is."""
    blob = wandb.add_run(f"md5-{form}", "r", files={"a.bin": b"content"}).files["a.bin"]
    digest = base64.b64decode(blob.digest)
    blob.digest = {"base64": blob.digest, "hex": digest.hex(), "other": "sha1:abc"}[form]
    compared = form != "other"
    if compared:
        corrupt_once(wandb, blob)
    source = source_of(wandb, f"md5-{form}")
    read = read_run(source)
    assert read.files == {"a.bin": b"content"}
    assert (read.unreadable, read.last.missing) == ([], False)
    assert source.calls["download"] == 1 + compared


def test_a_file_that_never_arrives_whole_leaves_the_run_partial(
    wandb: WandbServer, fresh_store: str
) -> None:
    """Its content is not carried; the next backfill completes the run."""
    run = wandb.add_run("md5-bad", "r", files={"a.bin": b"content", "b": b"b"}, rows=[{"x": 1}])
    file = run.files["a.bin"].path
    file.write_bytes(b"CONTENT")
    source, target = source_of(wandb, "md5-bad"), MlflowTarget(fresh_store)
    (outcome,) = backfill(source, target, Selection())
    (unreadable,) = outcome.unreadable
    assert "file a.bin" in str(unreadable)
    assert "another digest" in str(unreadable)
    there = read_runs(fresh_store)["r"]
    assert there.points("x") == [(0, 1.0)]
    assert there.tags["mlflow.wandb.state"] == "partial"
    file.write_bytes(b"content")
    (outcome,) = backfill(source, target, Selection())
    assert (outcome.action, outcome.unreadable) == ("repaired", ())
    (there,) = read_runs(fresh_store, Path("downloaded")).values()
    assert there.tags["mlflow.wandb.state"] == "complete"
    below = Path("downloaded", there.run_id, "wandb/files")
    assert {path.name: path.read_bytes() for path in below.iterdir()} == {
        "a.bin": b"content", "b": b"b",
    }  # fmt: skip


def test_a_server_that_is_down_fails_the_read(wandb: WandbServer) -> None:
    """A file that may be had later is no reason to finish without it."""
    run = wandb.add_run("down", "r", files={"a": b"a"})
    token = run.files["a"].token
    wandb.fail(lambda request: token in request.path, status=503, times=None)
    with pytest.raises(SourceUnavailableError, match="503"):
        read_run(source_of(wandb, "down", patience_s=1))


def test_the_key_goes_to_the_server_alone(wandb: WandbServer, tmp_path: Path) -> None:
    """Storage at another address gets no Authorization header."""
    with WandbServer(tmp_path / "other") as other:
        blob = other.store.new_blob(b"elsewhere")
        run = wandb.add_run("elsewhere", "r", files={"a": b"here"})
        listed = wandb.executor.roots["query"]().project("elsewhere").run("r")  # type: ignore[attr-defined]
        assert listed is not None
        client = source_of(wandb, "elsewhere")._client
        local = tmp_path / "a"
        client.download(f"{other.url}/storage/{blob.token}/a", local)
        assert local.read_bytes() == b"elsewhere"
        assert "Authorization" not in other.requests[-1].headers
        read_run(source_of(wandb, "elsewhere"))
        sent = wandb.asked(lambda request: run.files["a"].token in request.path)
        assert "Authorization" in sent[-1].headers


# -- console and system metrics -----------------------------------------------------------------


def test_a_console_log_that_is_no_file_is_written_out(wandb: WandbServer) -> None:
    """A run that has not ended keeps its lines on the server only."""
    console = [json.dumps({"ts": "2024-01-01", "content": f"line {i}"}) for i in range(3)]
    wandb.add_run("console", "r", console=console, state="running")
    read = read_run(source_of(wandb, "console"))
    assert read.files == {"output.log": b"line 0\nline 1\nline 2\n"}


def test_a_console_log_that_is_a_file_is_not_asked_for(wandb: WandbServer) -> None:
    """The uploaded file is the log."""
    wandb.add_run("console-file", "r", console=["line"], files={"output.log": b"whole\n"})
    source = source_of(wandb, "console-file")
    assert read_run(source).files == {"output.log": b"whole\n"}
    assert "RunConsoleLogPage" not in source.calls


def test_all_system_metrics_are_read(wandb: WandbServer) -> None:
    """Two thousand lines are read; the default of the API is five hundred."""
    wandb.add_run("system", "r", events=events(2000))
    read = read_run(source_of(wandb, "system"))
    assert read.system["cpu"] == [(1_700_000_000_000 + i * 15_000, float(i)) for i in range(2000)]
    assert len(read.system["gpu.0.temp"]) == 2000
    assert read.unreadable == []


def test_thinned_system_metrics_are_reported(
    wandb: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer lines than the server counts are reported."""
    run = wandb.add_run("thinned", "r", events=events(100))
    from tests.wandb_server.schema.runs import RunView

    monkeypatch.setattr(RunView, "events", lambda self, samples=500: run.events[::2])
    read = read_run(source_of(wandb, "thinned"))
    assert len(read.system["cpu"]) == 50
    (unreadable,) = read.unreadable
    assert "returns 50 of 100 lines" in str(unreadable)


# -- artifacts ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def artifacts(wandb: WandbServer, api: Worker) -> WandbServer:
    """A run that logs two versions of a model, and one that uses the first and adds a reference."""
    api.call(
        """
        import pathlib, wandb
        def log(run, name, kind, files, **more):
            artifact = wandb.Artifact(name, kind, **more)
            for path, content in files.items():
                local = pathlib.Path(path.replace("/", "_"))
                local.write_text(content)
                artifact.add_file(str(local), name=path)
            return artifact
        with wandb.init(project="artifacts", id="maker") as run:
            first = log(run, "net", "model", {"w.bin": "one", "sub/c.txt": "c"},
                        metadata={"epoch": 1}, description="the first")
            run.log_artifact(first, aliases=["best"]).wait()
            run.log_artifact(log(run, "net", "model", {"w.bin": "two"})).wait()
        with wandb.init(project="artifacts", id="user") as run:
            run.use_artifact("net:v0")
            refs = wandb.Artifact("refs", "dataset")
            refs.add_reference("https://data.invalid/key", checksum=False)
            run.log_artifact(refs).wait()
        """
    )
    return wandb


def read_one(wandb: WandbServer, run_id: str, **options: Any) -> Any:
    return read_run(source_of(wandb, "artifacts", run_id, **options))


def test_logged_artifacts_have_all_their_data(artifacts: WandbServer) -> None:
    """Each version with its type, aliases, metadata, description, digest and files."""
    read = read_one(artifacts, "maker")
    first, second = sorted(
        (one for one in read.artifacts if one.name == "net"), key=lambda one: one.version
    )
    assert (first.type, first.version, first.used) == ("model", "v0", False)
    assert (second.version, set(second.aliases)) == ("v1", {"latest"})
    assert first.aliases == ("best",)
    assert (first.metadata, first.description) == ({"epoch": 1}, "the first")
    assert first.digest == artifacts.artifact("artifacts/net:v0").digest
    assert {entry.path: entry.size for entry in first.entries} == {"w.bin": 3, "sub/c.txt": 1}
    assert read.contents["net:v0/w.bin"] == b"one"
    assert read.contents["net:v0/sub/c.txt"] == b"c"
    assert read.contents["net:v1/w.bin"] == b"two"
    assert read.unreadable == []


def test_used_artifacts_and_references_are_named_not_fetched(artifacts: WandbServer) -> None:
    """An input is lineage; a reference leads elsewhere, and stays a reference."""
    read = read_one(artifacts, "user")
    (used,) = [one for one in read.artifacts if one.used]
    assert (used.type, used.name, used.version, used.entries) == ("model", "net", "v0", ())
    (refs,) = [one for one in read.artifacts if one.name == "refs"]
    (entry,) = refs.entries
    assert (entry.ref, entry.local) == ("https://data.invalid/key", None)
    assert read.unreadable == []


def test_artifacts_can_be_left_out(artifacts: WandbServer) -> None:
    """Then nothing of them is asked for."""
    source = source_of(artifacts, "artifacts", "maker", artifacts=False)
    assert read_run(source).artifacts == []
    assert not {"RunOutputArtifacts", "RunInputArtifacts"} & source.calls.keys()
    with_artifacts = source_of(artifacts, "artifacts", "maker")
    info = only_run(with_artifacts)
    assert with_artifacts.size(info).file_bytes - source.size(info).file_bytes == 7


def test_an_artifact_file_that_differs_from_its_digest_is_not_carried(
    artifacts: WandbServer,
) -> None:
    """Content that is damaged twice is reported, its entry has no copy, the run is not complete."""
    digest = next(iter(artifacts.artifact("artifacts/net:v1").files))
    blob = artifacts.artifact("artifacts/net:v1").files[digest]
    whole = blob.path.read_bytes()
    blob.path.write_bytes(b"bad")
    try:
        read = read_one(artifacts, "maker")
    finally:
        blob.path.write_bytes(whole)
    assert read.contents["net:v1/w.bin"] is None
    assert read.last.missing is True
    (unreadable,) = read.unreadable
    assert "net:v1/w.bin" in str(unreadable)
    assert "digest" in str(unreadable)


def test_an_artifact_without_a_manifest_is_reported(artifacts: WandbServer) -> None:
    """Its name, version and metadata are carried all the same."""
    manifest = artifacts.artifact("artifacts/net:v0").manifest
    assert manifest is not None
    artifacts.fail(lambda request: manifest.token in request.path, status=404, times=None)
    read = read_one(artifacts, "maker")
    (first,) = [one for one in read.artifacts if (one.name, one.version) == ("net", "v0")]
    assert isinstance(first, ArtifactRef)
    assert (first.entries, first.metadata) == ((), {"epoch": 1})
    assert ["net:v0" in str(unreadable) for unreadable in read.unreadable] == [True]
