"""What describes one MLflow run: its name, params and tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.mlflow_terms import NAME_TAG
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.mapping import to_mlflow
from mlflow_wandb_plugin.mapping.names import Limits, storable
from mlflow_wandb_plugin.targets.mlflow.batches import Batches
from mlflow_wandb_plugin.targets.mlflow.files.run_files import RunFiles
from mlflow_wandb_plugin.targets.mlflow.files.run_names import RunNames
from mlflow_wandb_plugin.targets.mlflow.run_start import decided_tags, from_server

if TYPE_CHECKING:
    from mlflow.entities import Param, Run, RunTag


class RunDescription:
    """Finds the params and tags that a run lacks, and logs them; keeps tags in full in ``files``
    that MLflow would cut."""

    def __init__(self, run: Run, batches: Batches, names: RunNames, files: RunFiles) -> None:
        self._client, self._run_id = batches.client, batches.run_id
        self._batches = batches
        self._names = names
        self._files = files
        self._limits = Limits.installed()
        self._tags: dict[str, str] = dict(run.data.tags)
        self._tags_before: Mapping[str, str] = identity.present_tags(run.data.tags)
        self._wanted_tags: set[str] = set()
        self._all_again = False
        self._ours = identity.RUN_ID in self._tags
        if run.info.run_name != self._tags.get(NAME_TAG):
            # MLflow changes both: something else has changed one of them.
            self._tags.pop(NAME_TAG, None)
        self._params: dict[str, str] = dict(run.data.params)
        self._pending_params: list[Param] = []
        self._pending_tags: list[RunTag] = []
        self._rewritten_texts: set[tuple[str, str, str]] = set()

    def update(self, info: RunInfo) -> None:
        """Rename the run and remove its old W&B tags at once; new params and tags wait for
        `flush_pending`, or for `log_pending` as a step of the run's end."""
        self._rename(info)
        tag_name = self._names.tags.name
        wanted = {tag_name((key,)): value for key, value in to_mlflow.run_tags(info).items()}
        if info.entity:
            wanted[identity.ENTITY] = info.entity
        self._remove_gone(wanted)
        self._wanted_tags |= wanted.keys()
        params, tags = self._new_params(info), self.changed_tags(wanted)
        self._pending_params += params
        self._pending_tags += tags
        self._params.update((param.key, param.value) for param in params)
        self.remember(tags)

    def reopen(self, wanted: Mapping[str, str]) -> None:
        """Set the tags of a run that existed, and replace those of an earlier version of this
        package, which had other names."""
        former = identity.former_tags(self._tags) if self._ours else []
        if not former:
            self.set_tags(wanted)
            return
        present = identity.present_tags(self._tags)
        moved = {key: present[key] for key in present.keys() - self._tags.keys()}
        self.set_tags({**moved, **wanted})
        self._delete(former)

    def restart(self) -> None:
        """All of the run is written again, whatever its tags say now."""
        self._all_again = True

    def remove_stale(self, info: RunInfo) -> None:
        """Remove tags of what the W&B run had and no longer has, such as its group, and after
        `restart` those that it never had. In between only W&B's server knows that: a log of a
        resumed run need not name the group again."""
        stale: set[str] = set()
        if from_server(info):
            stale = set(to_mlflow.EDITABLE_TAGS) - to_mlflow.run_tags(info).keys()
        if self._all_again:
            stale |= decided_tags(info, self._tags_before) - self._wanted_tags
        stale &= self._tags.keys()
        self._delete(sorted(stale))

    def _rename(self, info: RunInfo) -> None:
        """Give the run W&B's name, unless its user has given it another one in MLflow: then its
        name is not the one that was made of W&B's name before."""
        now, name = self._tags.get(NAME_TAG), to_mlflow.run_name(info)
        before = to_mlflow.run_name(replace(info, name=self._tags.get(identity.NAME, "")))
        renamed = self._ours and now not in (None, before)
        self._ours = True
        if now != name and not renamed:
            self._client.call(self._client.client.update_run, self._run_id, name=name)
            self._tags[NAME_TAG] = name

    def flush_pending(self) -> None:
        """Log the pending params and tags."""
        if self._pending_params or self._pending_tags:
            self._names.save()
            self._client.batched([self.log_pending])
            self.drop_pending()

    def log_pending(self) -> None:
        """Log the pending params and tags and keep them: a step of `Client.batched` may be
        repeated. Call `RunNames.save` before and `drop_pending` when it has succeeded."""
        self._batches.log("params", self._pending_params)
        self.log_tags(self._pending_tags)

    def drop_pending(self) -> None:
        self._pending_params, self._pending_tags = [], []

    def set_tags(self, wanted: Mapping[str, str]) -> None:
        """Log those of the tags that the run lacks."""
        changed = self.changed_tags(wanted)
        self.log_tags(changed)
        self.remember(changed)

    def changed_tags(self, wanted: Mapping[str, str]) -> list[RunTag]:
        """Tags of ``wanted`` that the run lacks or has with another value, cut to MLflow's limit;
        a tag that is cut is kept in the run's files in full."""
        from mlflow.entities import RunTag

        changed = []
        for key, text in wanted.items():
            value = self._fit("tag", key, text, self._limits.tag_value)
            if value != text:
                self._files.long_tags[key] = text
            if self._tags.get(key) != value:
                changed.append(RunTag(key, value))
        return changed

    def log_tags(self, tags: Sequence[RunTag]) -> None:
        """Log tags, without remembering that the run has them."""
        self._batches.log("tags", tags)

    def remember(self, tags: Sequence[RunTag]) -> None:
        """Remember that the run has these tags."""
        self._tags.update((tag.key, tag.value) for tag in tags)

    def _new_params(self, info: RunInfo) -> list[Param]:
        from mlflow.entities import Param

        new: dict[str, str] = {}
        for path, text in to_mlflow.params(info).items():
            name = self._names.params.name(path)
            value = self._fit("param", name, text, self._limits.param_value)
            if name not in self._params:
                new.setdefault(name, value)
        return [Param(name, value) for name, value in new.items()]

    def _fit(self, kind: str, name: str, text: str, limit: int) -> str:
        """Change ``text`` to what MLflow stores; count each change of a param or tag once."""
        value = storable(text)
        for what, changed in (("cut", len(value) > limit), ("text", value != text)):
            if changed and (kind, name, what) not in self._rewritten_texts:
                self._rewritten_texts.add((kind, name, what))
                self._batches.losses.rewrites[f"{kind}_{what}"] += 1
        return value[:limit]

    def _remove_gone(self, wanted: Mapping[str, str]) -> None:
        """Remove tags of what this session wrote and the W&B run no longer has."""
        written = self._wanted_tags.intersection(to_mlflow.EDITABLE_TAGS)
        self._delete(sorted(written.intersection(self._tags) - wanted.keys()))

    def _delete(self, keys: Sequence[str]) -> None:
        if keys:
            self.flush_pending()
        for key in keys:
            self._client.delete_tag(self._run_id, key)
            del self._tags[key]
