"""Count the reports of a project of a W&B server."""

from __future__ import annotations

from typing import Any

from mlflow_wandb_plugin.wandb_api.client import WandbClient

REPORTS_A_PAGE = 100
REPORTS = """
query ProjectReports($entity: String!, $project: String!, $cursor: String, $perPage: Int) {
  project(name: $project, entityName: $entity) {
    allViews(viewType: "runs", after: $cursor, first: $perPage) {
      edges { node { id } cursor }
      pageInfo { endCursor hasNextPage }
    }
  }
}
"""


def count_reports(client: WandbClient) -> int:
    """Return the number of reports of the client's project.

    Raises:
        SourceError: there is no such project.
    """

    def page(cursor: str | None) -> Any:
        return client.project(REPORTS, cursor=cursor, perPage=REPORTS_A_PAGE).get("allViews")

    return sum(1 for _ in client.pages(page))
