"""Descriptions that are written as JSON files."""

from __future__ import annotations

from mlflow_wandb_plugin.core.model import ArtifactRef
from mlflow_wandb_plugin.mapping.documents import artifact_document


def test_the_description_of_an_artifact() -> None:
    """It has all that W&B says of the artifact, but for its files, under W&B's names."""
    artifact = ArtifactRef(
        "dataset", "images", "v3", "abc", "of cats", ("latest", "best"), {"rows": 7}
    )
    assert artifact_document(artifact) == {
        "type": "dataset",
        "name": "images",
        "version": "v3",
        "digest": "abc",
        "description": "of cats",
        "aliases": ["latest", "best"],
        "metadata": {"rows": 7},
    }
