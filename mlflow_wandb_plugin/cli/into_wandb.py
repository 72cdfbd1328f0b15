"""Options of a backfill into a W&B server."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from mlflow_wandb_plugin.builtin_plugin import WANDB_SCHEMES
from mlflow_wandb_plugin.errors import UsageError


def maps_projects(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--map`` to a command, which gets its values as ``mapped``."""
    option = click.option("--map", "mapped", multiple=True, metavar="A/P=B/Q",
                          help="Into W&B, project B/Q has the runs of project A/P.")  # fmt: skip
    return option(command)


def check_wandb_only(
    to: str, mapped: Sequence[str], incremental: bool | None = None, existing: str = "skip"
) -> None:
    """Check that ``--map`` and ``--incremental`` are given for a W&B server only.

    Args:
        to: URI of the target.
        incremental: None where neither form of the option is given.
        existing: what ``--existing`` says.

    Raises:
        UsageError: the target is none, or ``--existing`` says the same again or the opposite.
    """
    names = {"--map": bool(mapped), "--incremental": incremental is not None}
    given = [name for name, is_given in names.items() if is_given]
    if given and not to.startswith(WANDB_SCHEMES):
        raise UsageError(
            f"{given[0]} is for runs that go into W&B: use it with --to wandb://ENTITY"
        )
    if incremental is not None and existing != "skip":
        raise UsageError("pass either --incremental, --no-incremental or --existing")


def projects_of(mapped: Sequence[str]) -> dict[str, str]:
    """Return the target's project by the source's, of ``[ENTITY/]PROJECT=ENTITY/PROJECT``.

    Raises:
        UsageError: one of them has another form, or two are for one project.
    """
    projects: dict[str, str] = {}
    for pair in mapped:
        theirs, _, ours = (part.strip() for part in pair.partition("="))
        parts = theirs.split("/"), ours.split("/")
        if not (len(parts[0]) <= 2 and len(parts[1]) == 2 and all(map(all, parts))):
            raise UsageError(f"--map {pair}: write ENTITY/PROJECT=ENTITY/PROJECT, from and to")
        if theirs in projects:
            raise UsageError(f"--map names {theirs} twice: its runs go into one project")
        projects[theirs] = ours
    return projects
