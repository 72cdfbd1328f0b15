"""Every method of MLflow's stores that the mirror leaves alone, by the reason for it.

A new version of MLflow may bring a method that writes to runs: a test fails until somebody has
decided, and `mlflow-wandb doctor` names it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import NamedTuple

READS = "it reads"
INSIDE = "it is MLflow's own plumbing; what it writes passes a mirrored operation"
EXPERIMENTS = "W&B projects are made by their runs and have no tags; runs keep their project"
TRACES = "traces stay in MLflow; start_trace counts them"
GENAI = "evaluation data, scorers, reviews and issues have no place in a W&B run"
SKILLS = "skills are a registry of their own and belong to no run"
SECRETS = "gateways, secrets, budgets and webhooks never leave MLflow"
VERSIONS = {
    "log_points": "no MLflow's: stores that write fast have it",
    "start_trace_v3": "MLflow 3.1; later it is start_trace",
    "log_artifact_from_stream": "not yet in MLflow 3.1",
    "log_artifact_from_async_stream": "not yet in MLflow 3.1",
}
"""Mirrored methods that not every supported MLflow has."""
PROMPTS = "prompts belong to no run"
REGISTRY = "W&B has a collection per model and no properties of it that MLflow's would become"


def _for(reason: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), reason)


TRACKING: dict[str, str] = {
    **_for(
        READS,
        """
        calculate_trace_filter_correlation filter_active_experiment_ids find_completed_sessions
        get_experiment get_experiment_by_name get_logged_model get_metric_history
        get_metric_history_bulk get_metric_history_bulk_interval
        get_metric_history_bulk_interval_from_steps get_max_step_for_metric get_run
        sanitize_metric_value search_experiments search_logged_models search_runs _search_runs
        _evenly_spaced_indices
        """,
    ),
    **_for(
        INSIDE,
        """
        log_batch_async log_metric_async log_param_async set_tag_async end_async_logging
        flush_async_logging shut_down_async_logging log_spans_async
        set_model_versions_tags
        """,
    ),
    **_for(
        EXPERIMENTS,
        """
        create_experiment delete_experiment restore_experiment set_experiment_tag
        delete_experiment_tag
        """,
    ),
    **_for(
        TRACES,
        """
        _delete_traces archive_traces batch_get_trace_infos batch_get_traces create_assessment
        delete_assessment delete_trace_tag delete_traces deprecated_end_trace_v2
        deprecated_start_trace_v2 end_trace get_assessment get_online_trace_details get_trace
        get_trace_info link_prompts_to_trace link_traces_to_run log_spans query_trace_metrics
        resolve_trace_archival_config search_traces set_trace_tag sum_gateway_trace_cost
        unlink_traces_from_run update_assessment
        """,
    ),
    **_for(
        GENAI,
        """
        _load_dataset_records add_dataset_to_experiments add_items_to_review_queue create_dataset
        create_issue create_label_schema create_review_queue delete_dataset delete_dataset_records
        delete_dataset_tag delete_label_schema delete_review_queue delete_scorer
        get_active_online_scorers get_dataset get_dataset_experiment_ids get_issue get_label_schema
        get_label_schema_by_name get_online_scoring_configs get_or_create_user_queue
        get_review_queue get_review_queue_by_name get_scorer list_label_schemas
        list_review_queue_items list_review_queues list_scorer_versions list_scorers
        list_scorers_across_experiments register_scorer remove_dataset_from_experiments
        remove_items_from_review_queue resolve_endpoint_in_scorer search_datasets
        search_entities_by_destination search_entities_by_source search_issues set_dataset_tags
        set_review_queue_item_status update_issue update_label_schema update_review_queue
        upsert_dataset_records upsert_online_scoring_config
        """,
    ),
    **_for(
        SKILLS,
        """
        bulk_register_skills create_skill create_skill_version delete_skill delete_skill_alias
        delete_skill_and_collect_artifacts delete_skill_tag delete_skill_version
        delete_skill_version_tag get_latest_skill_version get_skill get_skill_version
        get_skill_version_by_alias search_skill_versions search_skills set_skill_alias
        set_skill_tag set_skill_version_tag update_skill update_skill_version
        """,
    ),
    **_for(
        SECRETS,
        """
        add_guardrail_to_endpoint attach_model_to_endpoint create_budget_policy
        create_endpoint_binding create_gateway_endpoint create_gateway_guardrail
        create_gateway_model_definition create_gateway_secret create_mcp_access_endpoint
        create_mcp_server create_mcp_server_version delete_budget_policy delete_endpoint_binding
        delete_gateway_endpoint delete_gateway_endpoint_tag delete_gateway_guardrail
        delete_gateway_model_definition delete_gateway_secret delete_mcp_access_endpoint
        delete_mcp_server delete_mcp_server_alias delete_mcp_server_tag delete_mcp_server_version
        delete_mcp_server_version_tag detach_model_from_endpoint get_budget_policy
        get_gateway_endpoint get_gateway_guardrail get_gateway_model_definition
        get_latest_mcp_server_version get_mcp_access_endpoint get_mcp_server get_mcp_server_version
        get_mcp_server_version_by_alias get_mcp_server_versions_for_trace get_secret_info
        link_mcp_server_versions_to_trace list_budget_policies list_endpoint_bindings
        list_endpoint_guardrail_configs list_gateway_endpoints list_gateway_guardrails
        list_budget_policies_across_workspaces list_gateway_model_definitions list_secret_infos
        remove_guardrail_from_endpoint search_mcp_access_endpoints search_mcp_server_versions
        search_mcp_servers secret_cache
        set_gateway_endpoint_tag set_mcp_server_alias set_mcp_server_tag set_mcp_server_version_tag
        update_budget_policy update_endpoint_guardrail_config update_gateway_endpoint
        update_gateway_model_definition update_gateway_secret update_mcp_access_endpoint
        update_mcp_server update_mcp_server_version
        """,
    ),
}

MODEL_REGISTRY: dict[str, str] = {
    **_for(
        READS,
        """
        get_latest_versions get_model_version get_model_version_by_alias
        get_model_version_download_uri get_registered_model search_model_versions
        search_registered_models
        """,
    ),
    **_for(
        INSIDE,
        """
        _await_model_version_creation _await_model_version_creation_impl _parse_experiment_id_filter
        link_prompt_version_to_model link_prompt_version_to_run link_prompts_to_trace
        _update_linked_prompts_tag
        """,
    ),
    **_for(
        REGISTRY,
        """
        create_registered_model delete_registered_model delete_registered_model_tag
        rename_registered_model set_registered_model_tag update_registered_model
        transition_model_version_stage
        """,
    ),
    **_for(
        PROMPTS,
        """
        create_prompt create_prompt_version delete_prompt delete_prompt_alias delete_prompt_tag
        delete_prompt_version delete_prompt_version_tag get_prompt get_prompt_version
        get_prompt_version_by_alias search_prompt_versions search_prompts set_prompt_alias
        set_prompt_tag set_prompt_version_tag
        """,
    ),
    **_for(
        SECRETS,
        """
        create_webhook delete_webhook get_webhook list_webhooks list_webhooks_by_event test_webhook
        update_webhook
        """,
    ),
}

ARTIFACTS: dict[str, str] = {
    **_for(
        READS,
        """
        _create_download_destination _download_file _is_directory _iter_artifacts_recursive
        download_artifacts download_archived_trace_data download_trace_attachment
        download_trace_attachment_to_file download_trace_data download_trace_data_to_file
        get_download_presigned_url get_local_path list_artifacts
        """,
    ),
    **_for(
        INSIDE,
        """
        _create_thread_pool _log_artifact_async flush_async_logging create_multipart_upload
        abort_multipart_upload create_presigned_upload_url
        """,
    ),
    **_for(
        TRACES,
        """
        upload_archived_trace_data upload_archived_trace_data_bytes upload_attachment
        upload_trace_data
        """,
    ),
}


class Part(NamedTuple):
    """A part of MLflow: the methods that it offers, those that are mirrored, and the others."""

    name: str
    offered: frozenset[str]
    mirrored: Mapping[str, object]
    left_alone: Mapping[str, str]


def parts(stores_too: bool = True) -> list[Part]:
    """Return the parts of the installed MLflow that may write to runs.

    Args:
        stores_too: look at the stores themselves, whose import takes seconds, and not at their
            interfaces alone.
    """
    from mlflow.store.artifact import artifact_repo
    from mlflow.store.model_registry import abstract_store as abstract_registry
    from mlflow.store.tracking import abstract_store as abstract_tracking

    from mlflow_wandb_plugin.store import artifact_operations, run_operations, version_operations

    repositories = [
        value
        for _, value in inspect.getmembers(artifact_repo, inspect.isclass)
        if value.__module__ == artifact_repo.__name__
    ]
    stores = _stores() if stores_too else _Stores([], [])
    tracking = _offered([abstract_tracking.AbstractStore], stores.tracking)
    registry = _offered([abstract_registry.AbstractStore], stores.registry)
    return [
        Part("tracking", tracking, run_operations.OPERATIONS, TRACKING),
        Part("registry", registry, version_operations.OPERATIONS, MODEL_REGISTRY),
        Part("artifacts", _offered(repositories, []), artifact_operations.OPERATIONS, ARTIFACTS),
    ]


class _Stores(NamedTuple):
    tracking: list[type]
    registry: list[type]


def _stores() -> _Stores:
    from mlflow.store.model_registry.rest_store import RestStore as RegistryOverHttp
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as SqlRegistry
    from mlflow.store.tracking.rest_store import RestStore
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    return _Stores([SqlAlchemyStore, RestStore], [SqlRegistry, RegistryOverHttp])


def unclassified() -> list[str]:
    """Return the methods of the installed MLflow's interfaces on which nobody has decided."""
    return [
        f"{part.name}: {name}"
        for part in parts(stores_too=False)
        for name in sorted(part.offered - part.mirrored.keys() - part.left_alone.keys())
    ]


def _offered(abstract: Iterable[type], concrete: Iterable[type]) -> frozenset[str]:
    """Return the methods that classes offer; private ones of abstract classes, too, which others
    implement."""
    offered = {name for kind in abstract for name in _methods(kind, private=True)}
    return frozenset(offered | {name for kind in concrete for name in _methods(kind, False)})


def _methods(kind: type, private: bool) -> set[str]:
    return {
        name
        for name, value in inspect.getmembers(kind, callable)
        if not inspect.isclass(value)
        and not name.startswith("__")
        and (private or not name.startswith("_"))
    }
