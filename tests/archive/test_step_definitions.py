"""An archive keeps which step metrics keys have, since when."""

from __future__ import annotations

from mlflow_wandb_plugin.archive.codec import dumps, info_document, info_from, loads
from mlflow_wandb_plugin.core.model import RunInfo, StepDefinition

DEFINED = (StepDefinition(0, "epoch", ""), StepDefinition(7, "val/*", "epoch"))
CONFIG = {"_wandb": {"m": [{"1": "epoch", "6": [3]}, {"2": "val/*", "5": 1, "6": [1, 3]}]}}


def test_definitions_are_read_back() -> None:
    """In their order and with their types."""
    info = RunInfo("r", "p", step_definitions=DEFINED, config=CONFIG)
    assert info_from(loads(dumps(info_document(info)))) == info


def test_an_archive_without_them_has_those_of_wandbs_config() -> None:
    """Earlier versions wrote no definitions; what is damaged is left out."""
    document = info_document(RunInfo("r", "p", config=CONFIG))
    del document["step_definitions"]
    assert info_from(document).step_definitions == (
        StepDefinition(0, "epoch", ""), StepDefinition(0, "val/*", "epoch"),
    )  # fmt: skip
    damaged = info_document(RunInfo("r", "p")) | {"step_definitions": [[0, "a"], 3, [1, "b", "c"]]}
    assert info_from(damaged).step_definitions == (StepDefinition(1, "b", "c"),)
