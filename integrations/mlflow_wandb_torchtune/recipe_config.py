"""Convert a recipe's config to plain values, and remove secrets."""

from __future__ import annotations

from typing import Any

from mlflow_wandb_plugin.core.redaction import without_secrets as shown

__all__ = ["as_yaml", "plain", "resolved", "shown"]


def resolved(config: Any) -> dict[str, Any]:
    """Return the config with its interpolations resolved, or unresolved if one of them fails."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[no-any-return]
    except OmegaConfBaseException:
        return OmegaConf.to_container(config, resolve=False)  # type: ignore[no-any-return]


def as_yaml(config: Any) -> str:
    """Return the config as YAML for ``tune run --config``, with interpolations, without secrets."""
    from omegaconf import OmegaConf

    document = OmegaConf.to_container(config, resolve=False)
    text: str = OmegaConf.to_yaml(OmegaConf.create(shown(document)))
    return text


def plain(value: Any) -> Any:
    """Convert OmegaConf's containers to dicts and lists; other values stay."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
