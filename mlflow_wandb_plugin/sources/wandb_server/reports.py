"""List the reports of a W&B project, which no backfill carries."""

from __future__ import annotations

from typing import Any

from mlflow_wandb_plugin.wandb_api.client import WandbClient

REPORTS_A_PAGE = 100
REPORTS = """
query ProjectViews($entity: String!, $project: String!, $cursor: String, $perPage: Int) {
  project(name: $project, entityName: $entity) {
    allViews(viewType: "runs", after: $cursor, first: $perPage) {
      edges { node { name displayName } cursor }
      pageInfo { endCursor hasNextPage }
    }
  }
}
"""
"""W&B's name for a published report is a view of the type "runs". Source: wandb.Api().reports."""


def list_reports(client: WandbClient) -> list[str]:
    """Return the titles of the reports of the client's project.

    Raises:
        SourceError: the server does not list them.
    """

    def page(cursor: str | None) -> Any:
        return client.project(REPORTS, cursor=cursor, perPage=REPORTS_A_PAGE).get("allViews")

    return [str(node.get("displayName") or node.get("name")) for node in client.pages(page)]
