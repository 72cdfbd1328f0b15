"""Log a recipe's checkpoints as W&B artifacts, which are replicated to MLflow."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.live.terminal import warn_once

WEIGHTS = (".bin", ".pt", ".pth", ".safetensors")
INDEX = ".index.json"
ADAPTER, ADAPTER_CONFIG = "adapter_model.", "adapter_config.json"
RECIPE_STATE = "recipe_state"

Stamps: TypeAlias = dict[Path, tuple[int, int]]
Which: TypeAlias = Literal["all", "final", "none"]


class CheckpointLogging:
    """Logs what the recipe's checkpointer has saved.

    torchtune has no hook for this: `watch` wraps ``save_checkpoint`` of the class that the config
    names, and `unwatch` puts the original back.
    """

    def __init__(self, which: Which) -> None:
        self._which = which
        self._run: Callable[[], Any] = lambda: None
        self._config: Mapping[str, Any] = {}
        self._facts: dict[str, Any] = {}
        self._originals: list[tuple[Any, str, Any]] = []

    def watch(self, run: Callable[[], Any], config: Mapping[str, Any]) -> None:
        """Start logging what the config's checkpointer saves.

        Args:
            run: returns the W&B run to log to.
            config: the recipe's config, with its interpolations resolved.
        """
        if self._which == "none" or self._originals:
            return
        section = config.get("checkpointer")
        kind = _component(section)
        if kind is None:
            warn_once("the config's checkpointer is not a class: call log_checkpoint yourself")
            return
        if config.get("enable_async_checkpointing") and self._which == "all":
            warn_once("checkpoints saved asynchronously are not logged, except the final one")
        self._run = run
        self._config = config
        self._facts = _facts_of(config)
        for name, wrapper in (
            ("load_checkpoint", self._loading),
            ("save_checkpoint", self._saving),
        ):
            self._originals.append((kind, name, vars(kind).get(name)))
            setattr(kind, name, wrapper(getattr(kind, name)))

    def unwatch(self) -> None:
        """Restore the checkpointer's methods."""
        while self._originals:
            kind, name, original = self._originals.pop()
            if original is None:
                delattr(kind, name)
            else:
                setattr(kind, name, original)

    def _loading(self, load: Any) -> Any:
        @functools.wraps(load)
        def load_checkpoint(checkpointer: Any, *args: Any, **kwargs: Any) -> Any:
            state = load(checkpointer, *args, **kwargs)
            if isinstance(state, Mapping) and self._is_ours(checkpointer):
                # The recipe reads these from the checkpoint, the number of epochs from its config.
                names = _torchtune_keys()
                self._facts |= _plain_values(state, (names.SEED_KEY, names.MAX_STEPS_KEY))
            return state

        return load_checkpoint

    def _saving(self, save: Any) -> Any:
        @functools.wraps(save)
        def save_checkpoint(
            checkpointer: Any, state_dict: Any, epoch: int, *args: Any, **kwargs: Any
        ) -> Any:
            final = not kwargs.get("intermediate_checkpoint", args[0] if args else False)
            if not self._is_ours(checkpointer) or not (final or self._which == "all"):
                return save(checkpointer, state_dict, epoch, *args, **kwargs)
            # Read before saving, which removes entries from the state.
            metadata = self._metadata(state_dict, epoch)
            before = _stamps(checkpointer._output_dir, epoch)
            result = save(checkpointer, state_dict, epoch, *args, **kwargs)
            self._log_saved(checkpointer._output_dir, epoch, before, metadata)
            return result

        return save_checkpoint

    def _log_saved(
        self, output_dir: Path, epoch: int, before: Stamps, metadata: Mapping[str, Any]
    ) -> None:
        """Log a saved checkpoint; errors become warnings, because the checkpoint is on disk."""
        try:
            files = written(before, _stamps(output_dir, epoch))
            if not files:
                warn_once(f"no model files appeared in {output_dir}: call log_checkpoint yourself")
                return
            folder = output_dir / f"epoch_{epoch}"
            base = folder if all(folder in file.parents for file in files) else output_dir
            log_files(self._run(), files, base, epoch, metadata)
        except Exception as error:
            warn_once(f"the checkpoint of epoch {epoch} is not logged: {error}")

    def _is_ours(self, checkpointer: Any) -> bool:
        """Whether this is the config's checkpointer: a recipe may have several of a class (PPO)."""
        wanted = self._config["checkpointer"].get("output_dir")
        has = getattr(checkpointer, "_output_dir", None)
        return has is not None and (wanted is None or Path(has) == Path(wanted))

    def _metadata(self, state: Mapping[str, Any], epoch: int) -> dict[str, Any]:
        """Return a checkpoint's metadata; only intermediate checkpoints have the recipe's state."""
        names = _torchtune_keys()
        lasting = (names.SEED_KEY, names.TOTAL_EPOCHS_KEY, names.MAX_STEPS_KEY)
        self._facts |= _plain_values(state, lasting)
        epochs_run = {names.EPOCHS_KEY: epoch + 1} | _plain_values(state, (names.EPOCHS_KEY,))
        return self._facts | epochs_run


def log_checkpoint(run: Any, path: Path, epoch: int, metadata: Mapping[str, Any]) -> None:
    """Log a file, or all files of a folder, as the checkpoint of ``epoch``.

    Raises:
        UsageError: there are no files.
    """
    if path.is_dir():
        files, base = sorted(file for file in path.rglob("*") if file.is_file()), path
    else:
        files, base = [path] if path.is_file() else [], path.parent
    if not files:
        raise UsageError(f"{path} has no checkpoint: pass a file, or a folder with files")
    log_files(run, files, base, epoch, metadata)


def log_files(
    run: Any, files: Sequence[Path], base: Path, epoch: int, metadata: Mapping[str, Any]
) -> None:
    """Log ``files``, named relative to ``base``, as one artifact of the W&B run ``run``."""
    import wandb

    about: dict[str, Any] = {"description": "Model checkpoint", "metadata": dict(metadata)}
    artifact = wandb.Artifact(f"torchtune_model_{epoch}", type="model", **about)
    for file in files:
        # torchtune does not change a saved checkpoint: wandb need not copy gigabytes first.
        name = file.relative_to(base).as_posix()
        artifact.add_file(str(file.absolute()), name=name, policy="immutable")
    run.log_artifact(artifact)


def written(before: Stamps, after: Stamps) -> list[Path]:
    """Return the model and adapter files that a checkpointer has written.

    It also copies the files beside the base model, which are left out.

    Args:
        before, after: state of the output folder, see `_stamps`.
    """
    new = [path for path, stamp in after.items() if before.get(path) != stamp]
    adapter = any(path.name.startswith(ADAPTER) for path in new)
    names = {ADAPTER_CONFIG} if adapter else set()
    return sorted(
        path for path in new if path.name in names or path.name.endswith((*WEIGHTS, INDEX))
    )


def _stamps(output_dir: Path, epoch: int) -> Stamps:
    """Return size and modification time (ns) of the files that a checkpoint may consist of."""
    stamps: Stamps = {}
    for folder in (output_dir, output_dir / f"epoch_{epoch}"):
        for file in folder.iterdir() if folder.is_dir() else ():
            if file.is_file() and not file.name.startswith(RECIPE_STATE):
                state = file.stat()
                stamps[file] = (state.st_size, state.st_mtime_ns)
    return stamps


def _facts_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata from the config; without a seed there, recipes use torch's."""
    import torch

    seed, names = config.get("seed"), _torchtune_keys()
    return {
        names.SEED_KEY: torch.initial_seed() if seed is None else seed,
        names.TOTAL_EPOCHS_KEY: config.get("epochs"),
        names.MAX_STEPS_KEY: config.get("max_steps_per_epoch"),
    }


def _plain_values(state: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return those of ``keys`` in a checkpoint that have plain values."""
    return {key: state[key] for key in keys if isinstance(state.get(key), int | float | str)}


def _torchtune_keys() -> Any:
    """Return the module with torchtune's names of checkpoint entries."""
    from torchtune import training

    return training


def _component(section: Any) -> Any:
    """Return the class that a config section names as ``_component_``, or None."""
    path = section.get("_component_") if isinstance(section, Mapping) else None
    module, _, name = str(path or "").rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name) if module else None
    except (ImportError, AttributeError):
        return None
    usable = isinstance(found, type) and hasattr(found, "save_checkpoint")
    return found if usable else None
