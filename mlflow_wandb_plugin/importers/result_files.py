"""The files in which an import between W&B servers notes what succeeded and what did not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.backfill.outcome import Outcome
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.importers.carrying import LoggedArtifact, failed
from mlflow_wandb_plugin.importers.namespace import Namespace

RUN_ERRORS = "run_errors.jsonl"
RUN_SUCCESSES = "run_successes.jsonl"
ARTIFACT_ERRORS = "artifact_errors.jsonl"
ARTIFACT_SUCCESSES = "artifact_successes.jsonl"


class ResultFiles:
    """Writes a line per run and artifact. They are for the user: no import reads decisions there.

    The files of errors begin anew with each import; those of successes grow, each line once.

    Args:
        folder: where the files are.
        artifacts: whether artifacts are imported.

    Raises:
        UsageError: the files cannot be written.
    """

    def __init__(self, folder: Path, artifacts: bool) -> None:
        self._folder = folder
        emptied = {RUN_ERRORS, *((ARTIFACT_ERRORS,) if artifacts else ())}
        self._known: dict[str, set[str]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in (RUN_ERRORS, RUN_SUCCESSES, ARTIFACT_ERRORS, ARTIFACT_SUCCESSES):
                with open(
                    folder / name, "w" if name in emptied else "a+", encoding="utf-8"
                ) as file:
                    if name in (RUN_SUCCESSES, ARTIFACT_SUCCESSES):
                        file.seek(0)
                        self._known[name] = {line.rstrip("\n") for line in file}
        except (OSError, ValueError) as error:
            raise UsageError(f"results cannot be written into {folder}: {error}") from error

    def record(
        self, outcome: Outcome, target: Namespace, artifacts: Sequence[LoggedArtifact]
    ) -> None:
        """Note a run, and the artifacts that it logged.

        Args:
            target: where the run went, or would have gone.
        """
        run = outcome.run
        place = {
            "src_entity": run.entity,
            "src_project": run.project,
            "dst_entity": target.entity,
            "dst_project": target.project,
        }
        problems = _problems(outcome)
        line: dict[str, Any] = {**place, "run_id": run.run_id}
        if outcome.losses and not problems:
            line["losses"] = dict(outcome.losses)
        self._write(RUN_ERRORS if problems else RUN_SUCCESSES, line, problems)
        for artifact in artifacts:
            number = artifact.version.removeprefix("v")
            named = {
                "name": artifact.name,
                "version": int(number) if number.isdecimal() else artifact.version,
                "type": artifact.type,
            }
            name = ARTIFACT_ERRORS if problems else ARTIFACT_SUCCESSES
            self._write(name, {**place, **named}, problems)

    def _write(self, name: str, line: Mapping[str, Any], problems: Sequence[str]) -> None:
        text = json.dumps({**line, "problems": list(problems)} if problems else line)
        known = self._known.get(name)
        if known is not None:
            if text in known:
                return
            known.add(text)
        with open(self._folder / name, "a", encoding="utf-8") as file:
            file.write(f"{text}\n")


def _problems(outcome: Outcome) -> list[str]:
    """What is wrong with a run, so that it is tried again; empty if it is there as it should be."""
    if not failed(outcome) and not outcome.unreadable:
        return []
    losses = [f"lost: {number} {kind}" for kind, number in sorted(outcome.losses.items())]
    unreadable = [str(part) for part in outcome.unreadable]
    return [*filter(None, [outcome.reason]), *unreadable, *losses]
