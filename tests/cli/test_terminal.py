"""What every command takes: how much it says, colours, tracebacks, completion."""

from __future__ import annotations

import re
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from rich.text import Text

from mlflow_wandb_plugin.cli import main, terminal
from mlflow_wandb_plugin.cli.commands import cli
from mlflow_wandb_plugin.cli.terminal import Terminal
from mlflow_wandb_plugin.wandb_log.log_writer import LogWriter
from tests.backfill.written import RUNS, make_folder
from tests.support.commands import main_in_process
from tests.support.records import exit_record, history_record, run_record

Command = Callable[..., tuple[int, str, str]]
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command in this process: exit code, stdout, stderr."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        return main_in_process(capsys, monkeypatch, *arguments)

    return call


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """``status`` meets an error that nobody foresaw."""

    def fail(*_: object, **__: object) -> None:
        raise KeyError("a key\nof two lines at https://user:secret@host")

    monkeypatch.setattr("mlflow_wandb_plugin.replicator.sync.find_journals", fail)


@pytest.mark.usefixtures("broken")
def test_an_error_that_nobody_foresaw_is_one_line(command: Command) -> None:
    """It says what happened and what to do, without a password; the exit code is 1."""
    code, out, err = command("status")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("mlflow-wandb: unexpected KeyError: ")
    assert err.endswith("; the same command with --debug says where\n")
    assert "secret" not in err


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("arguments", [("--debug", "status"), ("status", "--debug")])
def test_debug_shows_where(command: Command, arguments: tuple[str, ...]) -> None:
    """The traceback, then the line; before the command's name or after it."""
    code, _, err = command(*arguments)
    assert code == 1
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("mlflow-wandb: unexpected KeyError: ")


def test_an_error_that_is_foreseen_has_a_traceback_with_debug_alone(
    command: Command, tmp_path: Path
) -> None:
    """Exit code 2 in both cases."""
    (tmp_path / "empty").mkdir()
    code, _, err = command("summary", tmp_path / "empty")
    assert (code, "Traceback" in err) == (2, False)
    code, _, err = command("summary", tmp_path / "empty", "--debug")
    assert (code, "Traceback" in err) == (2, True)


def test_quiet_leaves_the_last_line_and_verbose_adds_steps(
    command: Command, tmp_path: Path
) -> None:
    """What is said step by step goes to standard error, so that output can be read by programs."""
    make_folder(tmp_path / "wandb", "p")
    code, out, err = command("summary", tmp_path / "wandb")
    assert (code, err, len(out.splitlines()) > 2) == (0, "", True)
    assert command("summary", tmp_path / "wandb", "-q") == (0, out.splitlines()[-1] + "\n", "")
    code, verbose, err = command("-v", "summary", tmp_path / "wandb")
    assert (code, verbose, err) == (0, out, "opening the source …\n")


def test_verbose_names_each_run_as_it_is_done(
    command: Command, tmp_path: Path, fresh_store: str
) -> None:
    """A line for each run of a backfill, once, however often the option is given."""
    make_folder(tmp_path / "wandb", "p")
    code, _, err = command("-v", "backfill", tmp_path / "wandb", "--to", fresh_store, "-v")
    assert code == 0
    lines = [line for line in err.splitlines() if line.startswith("p/")]
    assert sorted(line.split()[0] for line in lines) == [f"p/p{number}" for number in range(RUNS)]
    assert all(" migrated:" in line for line in lines)


@pytest.mark.parametrize("how", ["--no-color", "NO_COLOR"])
def test_colours_can_be_switched_off(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the option or by the variable; on a terminal they are there."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def drawn(options: Terminal) -> str:
        with click.Context(cli, obj=options):
            console = terminal.console()
            with console.capture() as captured:
                console.print(Text("red", "red"))
        return captured.get()

    assert "\x1b[31m" in drawn(Terminal())
    if how == "NO_COLOR":
        monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in drawn(Terminal(no_color=how == "--no-color"))


def test_tables_in_a_pipe_are_as_wide_as_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless COLUMNS says otherwise."""
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal.console().width == 200
    monkeypatch.setenv("COLUMNS", "90")
    assert terminal.console().width == 90


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["mlflow-wandb", "ver"], "plain,verify"),
        (["mlflow-wandb", "backfill", "--dry"], "plain,--dry-run"),
        (["mlflow-wandb", "backfill", "--existing", "up"], "plain,update"),
        (["mlflow-wandb", "backfill", "arch"], "plain,archive:"),
        (["mlflow-wandb", "backfill", "./wan"], "file,./wan"),
    ],
)
def test_the_shell_completes(
    words: list[str], wanted: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Commands, options, their values, and sources."""
    monkeypatch.setenv("_MLFLOW_WANDB_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", " ".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    monkeypatch.setattr(sys, "argv", ["mlflow-wandb"])
    # click asks how Python was started; `python -m pytest` would be another program.
    monkeypatch.setattr(sys.modules["__main__"], "__package__", None)
    monkeypatch.setenv("MLFLOW_WANDB_MIRROR", "")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert wanted in capsys.readouterr().out.splitlines()


def test_no_name_commands_the_terminal(
    tmp_path: Path, fresh_store: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's name, project and group with escape sequences, in what each command prints and in the
    tables that are kept."""
    hostile = "a\x1b]0;title\x07\x1b[31m[red]\r\x9b2J"
    place = tmp_path / "wandb" / "offline-run-20260101_000000-r1"
    place.mkdir(parents=True)
    with LogWriter(place / "run-r1.wandb") as log:
        names = {"display_name": hostile, "project": hostile, "run_group": hostile}
        log.append(run_record("r1", **names).SerializeToString())
        log.append(history_record({hostile: 1.0}, 0, 1_700_000_000).SerializeToString())
        log.append(exit_record(0).SerializeToString())
    monkeypatch.chdir(tmp_path)
    source, to = tmp_path / "wandb", ("--to", fresh_store)
    damage = "update metrics set value = 2"
    for arguments in (
        ["summary", source],
        ["backfill", source, *to, "--plan", "--report", "plan.txt"],
        ["backfill", source, *to, "--report", "report.txt"],
        ["verify", source, *to],
        ["status", source],
    ):
        if arguments[0] == "verify":
            with sqlite3.connect(fresh_store.removeprefix("sqlite:///")) as database:
                database.execute(damage)
            database.close()
        _, out, err = command(*arguments)
        kept = [file.read_text() for file in tmp_path.glob("*.txt")]
        for text in (out, err, *kept):
            assert set(CONTROLS.findall(text)) <= {"\n"}, arguments
        assert arguments[0] == "status" or "[red]" in out + err, arguments
