"""The page of all commands and options, made from click's own objects."""

from __future__ import annotations

import click

from mlflow_wandb_plugin.cli.commands import cli
from scripts.markdown_tables import code, table

HEAD = """# Options of the commands

Made from the code by `make reference`: each command with its arguments and options, as `--help`
prints them. [The commands](cli.md) explains them, with examples.
"""


def command_page() -> str:
    """Return the page's text."""
    return "\n".join([HEAD, *map(_section, all_commands())])


def all_commands() -> list[tuple[str, click.Command]]:
    """Return each command with its name, by name."""
    context = click.Context(cli)
    found = [(name, cli.get_command(context, name)) for name in cli.list_commands(context)]
    return [(name, command) for name, command in found if command is not None]


def _section(item: tuple[str, click.Command]) -> str:
    name, command = item
    arguments = [each for each in command.params if isinstance(each, click.Argument)]
    options = [each for each in command.params if isinstance(each, click.Option)]
    usage = " ".join([f"mlflow-wandb {name}", *(["[OPTIONS]"] if options else [])])
    usage = " ".join([usage, *map(_argument, arguments)])
    parts = [f"## {name}\n", f"```text\n{usage}\n```\n", f"{_paragraphs(command.help or '')}\n"]
    if options:
        rows = [(_spelling(each), _default(each), _help(each)) for each in options]
        parts.append(table(("option", "default", "what it does"), rows))
    return "\n".join(parts)


def _argument(argument: click.Argument) -> str:
    name = (argument.metavar or argument.name or "").upper().strip("[].…")
    many = "…" if argument.nargs != 1 else ""
    return f"{name}{many}" if argument.required else f"[{name}{many}]"


def _spelling(option: click.Option) -> str:
    spellings = ", ".join(code(each) for each in (*option.opts, *option.secondary_opts))
    if option.is_flag:
        return spellings
    kind = option.type
    if isinstance(kind, click.Choice):
        return f"{spellings} {' or '.join(code(str(each)) for each in kind.choices)}"
    return f"{spellings} {code((option.metavar or kind.name).upper())}"


def _default(option: click.Option) -> str:
    if option.required:
        return "required"
    if option.multiple:
        return "repeatable"
    if option.is_flag:
        return _flag_default(option)
    # Versions of click differ in what stands for "no default".
    known = isinstance(option.default, (str, int, float)) and option.default != ""
    return code(str(option.default)) if known else ""


def _flag_default(option: click.Option) -> str:
    if not option.secondary_opts or not isinstance(option.default, bool):
        return ""
    return code((option.opts if option.default else option.secondary_opts)[0])


def _help(option: click.Option) -> str:
    return " ".join((option.help or "").split())


def _paragraphs(text: str) -> str:
    """Return a help text with each paragraph on one line; click marks those kept as they are."""
    found = [part for part in text.replace("\b\n", "").split("\n\n") if part.strip()]
    return "\n\n".join(" ".join(part.split()) for part in found)
