"""What integrations log of a user's config holds no secret."""

from __future__ import annotations

import pytest

from mlflow_wandb_plugin.core.redaction import (
    HIDDEN,
    without_secrets,
)


def test_secrets_are_hidden_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their key, by their place in a URI, and where the environment knows them; the rest
    stays as it is."""
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "open-sesame")
    document = {
        "lr": 0.1,
        "wandb": {"api_key": "0123", "project": "p"},
        "uri": "https://ann:pass@host/x",
        "lines": ["--token=open-sesame", 3],
        "token": 7,
    }
    assert without_secrets(document) == {
        "lr": 0.1,
        "wandb": {"api_key": HIDDEN, "project": "p"},
        "uri": "https://host/x",
        "lines": [HIDDEN, 3],
        "token": 7,
    }
