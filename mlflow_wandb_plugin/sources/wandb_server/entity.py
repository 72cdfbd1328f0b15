"""Read the runs of all projects of a W&B entity: ``wandb://ENTITY``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from mlflow_wandb_plugin.core.model import Item, Key, RunInfo, Selection, Size, UnreadableRange
from mlflow_wandb_plugin.core.protocols import RunOverview, Source
from mlflow_wandb_plugin.errors import SourceError, SourceUnavailableError
from mlflow_wandb_plugin.sources.wandb_server.source import WandbServerSource
from mlflow_wandb_plugin.wandb_api.address import ProjectAddress
from mlflow_wandb_plugin.wandb_api.client import WandbClient

PROJECTS_A_PAGE = 100
PROJECTS = """
query GetProjects($entity: String!, $cursor: String, $perPage: Int) {
  models(entityName: $entity, after: $cursor, first: $perPage) {
    edges { node { name } cursor }
    pageInfo { endCursor hasNextPage }
  }
}
"""


class WandbEntitySource(Source):
    """A `Source` of all projects of one entity, project by project in the order of their names.

    Args:
        client: of the entity; its address has no project.
        open_project: opens the source of one project.
    """

    filter_language = "wandb"
    rate_limited = True

    def __init__(
        self, client: WandbClient, open_project: Callable[[ProjectAddress], WandbServerSource]
    ) -> None:
        self._client = client
        self._open_project = open_project
        self._projects: dict[str, WandbServerSource] = {}
        self._lock = threading.Lock()
        self.unreadable: list[UnreadableRange] = []

    def runs(self, selection: Selection) -> Iterator[RunInfo]:
        """Yield the selected runs of the selected projects.

        Raises:
            SourceError: the entity cannot be listed. A project that cannot is in `unreadable`.
        """
        self.unreadable.clear()
        for name in self._names(selection):
            try:
                yield from self._project(name).runs(selection)
            except SourceUnavailableError:
                raise
            except SourceError as error:
                path = f"{self._client.address.entity}/{name}"
                self.unreadable.append(UnreadableRange(path, 0, 1, str(error)))

    def count(self, selection: Selection) -> int:
        """Return the sum of the projects' estimates."""
        return sum(self._project(name).count(selection) for name in self._names(selection))

    def reports(self) -> list[str]:
        """Return the titles of all projects' reports."""
        return [one for name in self._names(Selection()) for one in self._project(name).reports()]

    def size(self, run: RunInfo) -> Size:
        return self._project(run.project).size(run)

    def overview(self, run: RunInfo, with_files: bool) -> RunOverview:
        return self._project(run.project).overview(run, with_files)

    def point_counts(self, run: RunInfo) -> Mapping[Key, int]:
        return self._project(run.project).point_counts(run)

    def beside_runs(self, selection: Selection) -> list[str]:
        projects = map(self._project, self._names(selection))
        return [line for project in projects for line in project.beside_runs(selection)]

    def describe(self, run: RunInfo) -> RunInfo:
        return self._project(run.project).describe(run)

    def history(self, run: RunInfo) -> Iterator[Item]:
        return self._project(run.project).history(run)

    def read(self, run: RunInfo, since: Mapping[str, int]) -> Iterator[Item]:
        return self._project(run.project).read(run, since)

    def add_to_config(self, run: RunInfo, keys: Mapping[str, str]) -> None:
        self._project(run.project).add_to_config(run, keys)

    def _names(self, selection: Selection) -> list[str]:
        def page(cursor: str | None) -> object:
            found = self._client.query(PROJECTS, cursor=cursor, perPage=PROJECTS_A_PAGE)
            return found.get("models")

        names = {str(node.get("name") or "") for node in self._client.pages(page)} - {""}
        if not names:
            raise SourceError(
                f"no W&B projects of {self._client.address.entity} on "
                f"{self._client.address.base_url}, or this API key may not list them"
            )
        return sorted(name for name in names if selection.takes_project(name))

    def _project(self, name: str) -> WandbServerSource:
        with self._lock:
            if name not in self._projects:
                address = replace(self._client.address, project=name)
                self._projects[name] = self._open_project(address)
            return self._projects[name]
