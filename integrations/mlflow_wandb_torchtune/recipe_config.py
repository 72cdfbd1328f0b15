"""A recipe's config in plain values, and as it may be shown: without secrets."""

from __future__ import annotations

from typing import Any

from mlflow_wandb_plugin.core.redaction import without_secrets as shown

__all__ = ["as_yaml", "plain", "resolved", "shown"]


def resolved(config: Any) -> dict[str, Any]:
    """The config with its interpolations filled in, as far as they can be."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        document: dict[str, Any] = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException:
        document = OmegaConf.to_container(config, resolve=False)
    return document


def as_yaml(config: Any) -> str:
    """The config as it was written, interpolations and all, so that ``tune run --config`` takes it;
    without secrets."""
    from omegaconf import OmegaConf

    document = OmegaConf.to_container(config, resolve=False)
    text: str = OmegaConf.to_yaml(OmegaConf.create(shown(document)))
    return text


def plain(value: Any) -> Any:
    """An argument that torchtune took from a config: OmegaConf's containers as dicts and lists."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
