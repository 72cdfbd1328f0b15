"""Checks of this machine alone: packages, extras, integrations, and journals that wait."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from mlflow_wandb_plugin.diagnosis.check import Check
from mlflow_wandb_plugin.errors import MlflowWandbError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PACKAGE = "mlflow-wandb-plugin"
NO_EXTRAS = frozenset(("dev", "docs", "frameworks", "test"))
"""Extras for work on the package itself."""
INTEGRATIONS = {
    "accelerate": "Hugging Face Accelerate",
    "composer": "MosaicML Composer",
    "flyte": "Flyte",
    "keras": "Keras",
    "lightning": "Lightning",
    "ray": "Ray",
    "torch": "PyTorch",
    "torchtune": "torchtune",
    "transformers": "Hugging Face Transformers",
    "xgboost": "XGBoost",
}
"""Frameworks and launchers that log to W&B, by the module that they are imported as."""


def installation_checks() -> Iterator[Check]:
    """Yield the checks that need no network and no import of MLflow."""
    yield _followed()
    yield from _extras()
    yield _integrations()
    yield _journals()


def _followed() -> Check:
    from mlflow_wandb_plugin.live import tap

    name = "wandb can be followed"
    try:
        tap.run_class()
    except MlflowWandbError as error:
        return Check(name, "problem", str(error), "pip install 'wandb>=0.22,<0.32'")
    return Check(name, "ok", "yes")


def _extras() -> Iterator[Check]:
    from packaging.requirements import Requirement

    try:
        about = importlib.metadata.metadata(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return
    needed = list(map(Requirement, about.get_all("Requires-Dist") or ()))
    for extra in sorted(set(about.get_all("Provides-Extra") or ()) - NO_EXTRAS):
        own = [
            one for one in needed
            if one.marker and one.marker.evaluate({"extra": extra})
            and not one.marker.evaluate({"extra": ""})
        ]  # fmt: skip
        lacking = [line for line in map(_lacking, own) if line]
        if not lacking:
            yield Check(f"extra {extra}", "ok", "installed")
        else:
            what = f"not installed: {', '.join(lacking)}"
            todo = f"if you need it: pip install '{PACKAGE}[{extra}]'"
            yield Check(f"extra {extra}", "note", what, todo)


def _lacking(requirement: Requirement) -> str:
    """Say what an installed distribution does not meet; empty if it does."""
    try:
        found = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return requirement.name
    if requirement.specifier.contains(found, prereleases=True):
        return ""
    return f"{requirement.name} {found} is not {requirement.specifier}"


def _integrations() -> Check:
    found = [name for module, name in INTEGRATIONS.items() if find_spec(module) is not None]
    said = ", ".join(found) or "none of those that are known"
    return Check("integrations found", "ok", said)


def _journals() -> Check:
    from mlflow_wandb_plugin.journal.journal_locks import trainer_alive
    from mlflow_wandb_plugin.replicator.sync import default_folder, find_journals

    name, folder = "journals", default_folder()
    journals = find_journals(folder)
    waiting = [path for path in journals if not trainer_alive(path)]
    live = len(journals) - len(waiting)
    if waiting:
        size = sum(path.stat().st_size for path in waiting if path.exists())
        said = f"{len(waiting):,} wait to be delivered ({size:,} bytes) in {folder.absolute()}"
        return Check(name, "note", said, "mlflow-wandb sync")
    return Check(name, "ok", f"none wait in {folder.absolute()}; {live:,} of running processes")


def classification_check() -> Check:
    """Check that somebody has decided on each method of MLflow's stores."""
    from mlflow_wandb_plugin.store.classified import unclassified

    name = "MLflow's methods are known"
    found = unclassified()
    if not found:
        return Check(name, "ok", "each is mirrored, or left alone for a reason")
    shown = ", ".join(found[:5]) + (f" and {len(found) - 5:,} more" if len(found) > 5 else "")
    todo = "what they write is not mirrored by wandb+ stores: use a version of MLflow that is known"
    return Check(name, "note", f"not mirrored, for this MLflow is newer: {shown}", todo)
