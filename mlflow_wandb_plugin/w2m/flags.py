"""The flags of ``w2m``: names, meanings and spellings of export-wandb-to-mlflow."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from mlflow_wandb_plugin.errors import UsageError

_TRUE, _FALSE = frozenset({"true", "t", "1", "yes", "y"}), frozenset({"false", "f", "0", "no", "n"})
MISSPELT = "resume_from_dry_run_orderd_by_creation_time"
"""How that tool spells one of its flags."""


@dataclass(frozen=True, slots=True)
class Flags:
    """The given flags. None stands for a flag that was left out where that makes a difference."""

    wandb_project_name: str
    wandb_org_name: str = ""
    mlflow_experiment_name: str = ""
    verbose: bool = False
    resume_from_crash: bool = False
    log_dir: str = ""
    wandb_run_names: tuple[str, ...] = ()
    exclude_metrics: tuple[str, ...] = ()
    skip_existing_runs: bool = False
    dry_run: bool = False
    resume_from_dry_run: bool = False
    resume_from_dry_run_ordered_by_creation_time: bool = False
    dry_run_save_dir: str = ""
    dry_run_thread_pool_size: int | None = None
    is_dual_writing_experiment: bool = False
    skip_dual_writing_runs: bool | None = None


_TEXT = {
    "wandb_project_name": "W&B project to migrate. Required.",
    "wandb_org_name": "W&B entity of the project. Default: WANDB_ENTITY, else wandb's own.",
    "mlflow_experiment_name": "Name of the MLflow experiment. Default: the project's.",
    "log_dir": "Write the log into a file in this folder, too.",
    "dry_run_save_dir": "Folder that a dry run writes to, or is resumed from.",
}
_LIST = {
    "wandb_run_names": "Only runs whose name begins with one of these (regex).",
    "exclude_metrics": "Leave out metrics of these names (regex, of the whole name).",
}
_BOOL = {
    "verbose": "Log more.",
    "resume_from_crash": "Continue after a crash: complete runs are skipped, others completed. "
    "This is the default.",
    "skip_existing_runs": "Skip runs that MLflow has. This is the default.",
    "dry_run": "Write an archive into dry_run_save_dir instead of MLflow.",
    "resume_from_dry_run": "Read the archive in dry_run_save_dir instead of W&B.",
    "resume_from_dry_run_ordered_by_creation_time": "Oldest runs first. This is the default; "
    "no W&B key is needed.",
    "is_dual_writing_experiment": "Write into the MLflow experiment that the dual-written runs "
    "are in.",
    "skip_dual_writing_runs": "Skip every dual-written run. Left out: skip the complete ones and "
    "fill the others; False: migrate them again.",
}
_POOL = "How many runs a dry run reads at the same time. Default: 1."


def parse(arguments: Sequence[str]) -> Flags:
    """Flags from a command line, as absl spells them: ``--flag=value``, ``--flag value``,
    ``--flag`` and ``--noflag`` for bools, one dash or two, lists with commas or repeated.

    Raises:
        UsageError: a flag is unknown, has no such value, is missing, or conflicts with another.
    """
    parser = _parser()
    given = vars(parser.parse_args([_two_dashes(argument) for argument in arguments]))
    for name in _LIST:
        given[name] = tuple(value for text in given[name] or () for value in _split(text))
    flags = Flags(**{name: value for name, value in given.items() if value is not None})
    _check(flags)
    return flags


def _check(flags: Flags) -> None:
    if not flags.wandb_project_name:
        raise UsageError("--wandb_project_name is required")
    for one, other in (("dry_run", "resume_from_dry_run"),
                       ("skip_existing_runs", "resume_from_crash")):  # fmt: skip
        if getattr(flags, one) and getattr(flags, other):
            raise UsageError(f"--{one} and --{other} cannot both be True")
    for name in ("dry_run", "resume_from_dry_run"):
        if getattr(flags, name) and not flags.dry_run_save_dir:
            raise UsageError(f"--{name} needs --dry_run_save_dir")
    if flags.dry_run_thread_pool_size is not None and flags.dry_run_thread_pool_size < 1:
        raise UsageError("--dry_run_thread_pool_size must be 1 or more")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="w2m",
        allow_abbrev=False,
        description="Migrate a W&B project into MLflow: the flags of export-wandb-to-mlflow on "
        "the engine of `mlflow-wandb backfill`. Run it again whenever you like: it goes on where "
        "it stopped. Exit code: 0 all well, 1 some runs failed, 2 it could not start.",
    )
    for name, text in _TEXT.items():
        parser.add_argument(f"--{name}", help=text, default="", metavar="TEXT")
    for name, text in _LIST.items():
        parser.add_argument(f"--{name}", help=text, action="append", metavar="A,B")
    for name, text in _BOOL.items():
        spellings = [f"--{name}", *([f"--{MISSPELT}"] if "ordered" in name else [])]
        parser.add_argument(
            *spellings, help=text, dest=name, nargs="?", const=True, type=_bool, metavar="BOOL"
        )
        parser.add_argument(
            f"--no{name}", help=argparse.SUPPRESS, dest=name, action="store_const", const=False
        )
    parser.add_argument("--dry_run_thread_pool_size", help=_POOL, type=int, metavar="N")
    return parser


def _bool(text: str) -> bool:
    if text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def _split(text: str) -> list[str]:
    """Values between commas; a value with a comma of its own stands in double quotes."""
    rows = list(csv.reader([text], skipinitialspace=True))
    return [value.strip() for row in rows for value in row if value.strip()]


def _two_dashes(argument: str) -> str:
    names = (*_TEXT, *_LIST, *_BOOL, MISSPELT, "dry_run_thread_pool_size")
    single = argument.startswith("-") and not argument.startswith("--") and len(argument) > 2
    return f"-{argument}" if single and argument[1:].partition("=")[0] in names else argument
