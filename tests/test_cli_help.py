"""The commands explain themselves, in the terminal and in the pages."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mlflow_wandb_plugin.cli.commands import cli
from mlflow_wandb_plugin.cli.terminal import common_options
from scripts.command_pages import all_commands
from tests.support.documents import ROOT

COMMANDS = all_commands()


COMMON = {option.name for option in common_options()}


def names(items: list[tuple[str, click.Command]]) -> list[str]:
    return [name for name, _ in items]


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=names(COMMANDS))
def test_command_has_help_and_so_has_each_option(name: str, command: click.Command) -> None:
    """``COMMAND --help`` exits with 0 and says what the command and each of its options do."""
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert command.help
    first = " ".join(command.help.partition("\n\n")[0].split())
    assert first in " ".join(result.output.split())
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{name} {option.opts[0]}"
            assert option.opts[0] in result.output


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=names(COMMANDS))
def test_command_is_documented(name: str, command: click.Command) -> None:
    """README.md names each command, docs/cli.md has a section for it with all its options."""
    assert f"mlflow-wandb {name}" in (ROOT / "README.md").read_text()
    page = (ROOT / "docs" / "cli.md").read_text()
    [section] = re.findall(rf"^## {name}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    for option in command.params:
        if isinstance(option, click.Option) and option.name not in COMMON:
            for spelling in (*option.opts, *option.secondary_opts):
                assert f"`{spelling}" in section, f"{name} {spelling}"


def test_options_of_every_command_are_documented_once() -> None:
    """docs/cli.md has them before the first command, and every command but ``run`` takes them."""
    beginning = (ROOT / "docs" / "cli.md").read_text().partition("\n## ")[0]
    for option in common_options():
        for spelling in option.opts:
            assert f"`{spelling}`" in beginning
    for name, command in COMMANDS:
        taken = {option.name for option in command.params} & COMMON
        assert taken == (set() if name == "run" else COMMON), name


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=names(COMMANDS))
def test_examples_of_the_help_are_understood(
    name: str, command: click.Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--help`` ends with examples that the command itself parses."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.chdir(tmp_path)
    _, _, text = str(command.epilog).partition("Examples:\n")
    lines = [line.strip() for line in text.splitlines()]
    assert lines
    shown = CliRunner().invoke(cli, [name, "--help"]).output
    for line in lines:
        assert line in shown
        words = shlex.split(line)
        start = words.index("mlflow-wandb")
        assert words[start + 1] == name
        with command.make_context(name, words[start + 2 :]):
            pass


def test_page_has_no_command_that_does_not_exist() -> None:
    """docs/cli.md describes the commands that there are, and README.md uses no other."""
    page = (ROOT / "docs" / "cli.md").read_text()
    assert sorted(re.findall(r"^## (.*)$", page, re.M)) == names(COMMANDS)
    used = re.findall(r"mlflow-wandb ([a-z]+)", (ROOT / "README.md").read_text())
    assert set(used) <= set(names(COMMANDS))


def test_help_of_all_lists_each_command() -> None:
    """``mlflow-wandb -h`` names each command."""
    result = CliRunner().invoke(cli, ["-h"])
    assert result.exit_code == 0
    for name in names(COMMANDS):
        assert re.search(rf"^  {name} ", result.output, re.M)
