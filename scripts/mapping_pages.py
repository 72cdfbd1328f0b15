"""The page of mapping tables, made from the constants and functions of the mapping rules.

Where a rule is a function, it is called with values that name their field, and the table shows
where each of them arrives.
"""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.core.redaction import Secrets
from mlflow_wandb_plugin.mapping import documents, system_metrics, to_mlflow, to_wandb
from mlflow_wandb_plugin.mapping.names import legal_name, safe_path
from mlflow_wandb_plugin.settings import SECRETS_SHOWN
from scripts.markdown_tables import code, codes, table

HEAD = """# Mapping tables

Made from the code by `make reference`: names, states, files and limits as the modules in
`mapping/` have them. [The mapping rules](mapping.md) explains them, and says what becomes of the
rest.
"""
NAME_LIMIT = 250
"""MLflow's limit of a key, with which names are shown here."""
_FIELDS = ("name", "notes", "group", "job_type", "sweep_id", "url", "state")
_FACTS = ("user", "program", "git_commit", "git_remote", "args", *to_mlflow.MACHINE_FACTS)


def mapping_page() -> str:
    """Return the page's text."""
    return "\n".join((HEAD, *_into_mlflow(), *_into_wandb()))


# -- W&B to MLflow --------------------------------------------------------------------------------


def _into_mlflow() -> Iterable[str]:
    yield f"## From W&B to MLflow\n\nVersion {to_mlflow.MAPPING_VERSION} of the rules.\n"
    yield "### States\n"
    yield table(("W&B", "MLflow"), _pairs(to_mlflow.STATUS))
    yield "### Tags\n"
    yield table(("what W&B has", "tag in MLflow"), _tags())
    yield (
        "MLflow's user is the first that is known of "
        f"{codes(to_mlflow.USER_FACTS)}: the user of the machine, the e-mail, W&B's account, the "
        "owner of the log.\n"
    )
    yield "### Config values\n"
    values: list[Any] = ["text", 1, 1.0, True, None, [1, 2], {"a": 1}]
    yield table(
        ("value", "param"), [(code(repr(v)), code(to_mlflow.param_value(v))) for v in values]
    )
    yield "A nested mapping is a param for each leaf, named `a.b`; one in a list is JSON.\n"
    yield "### Names\n"
    names = ["loss", "train/loss (mean)", "acc@5", "a//b", "../a", "a/./b", "µ", "a,b"]
    yield table(
        ("key in W&B", "name in MLflow"),
        [(code(n), code(legal_name(n, NAME_LIMIT))) for n in names],
    )
    yield "### Paths of files\n"
    paths = ["model.pt", "a/b.txt", "../up.txt", "/etc/x", "what?.txt", "a\\b"]
    yield table(("path in W&B", "path in MLflow"), [(code(p), code(safe_path(p))) for p in paths])
    yield "### System metrics\n"
    yield table(("W&B", "MLflow", "value"), _system_metrics())
    yield f"Any other metric keeps W&B's name, below `{system_metrics.PREFIX}`.\n"
    yield "### Former names of tags\n"
    yield "Up to version 4 of the rules; a run with them is found and compared as before.\n"
    yield table(("then", "now"), _pairs(identity.FORMER_NAMES))
    yield "### Documents among a run's artifacts\n"
    yield table(("constant", "path"), _paths(documents))


def _pairs(mapping: Mapping[Any, Any]) -> list[tuple[str, str]]:
    return [(code(key), code(str(value))) for key, value in mapping.items()]


def _tags() -> list[tuple[str, str]]:
    """Return which tag each field of a run becomes."""
    facts = {name: name for name in _FACTS}
    texts = {name: name for name in _FIELDS}
    run = RunInfo(
        "run_id", "project", "entity", tags=("tags",), exit_code=77, facts=facts,
        config={"a": 2}, first_config={("a",): 1}, **texts,  # type: ignore[arg-type]
    )  # fmt: skip
    known = {77: "exit code", 1: "number of config leaves that changed"}
    words = {str(number): text for number, text in known.items()} | {
        "LOCAL": "`LOCAL`, where the program is known"
    }
    rows = [
        (words.get(value, value.strip('[]"').replace("_", " ")), code(tag))
        for tag, value in to_mlflow.run_tags(run).items()
    ]
    identified = identity.identity_tags(run, "backfill", to_mlflow.MAPPING_VERSION)
    named = {identity.RUN_ID, identity.PROJECT, identity.ENTITY}
    ids = [
        (value.replace("_", " "), code(tag)) for tag, value in identified.items() if tag in named
    ]
    return ids + rows


def _system_metrics() -> Iterable[tuple[str, str, str]]:
    gpu = [f"gpu.0.{name}" for name in system_metrics._GPU_NAMES]
    for key in (*system_metrics.SYSTEM_NAMES, *gpu):
        name, value = system_metrics.system_metric(key, 1e6)
        shown = [
            text.replace("gpu.0.", "gpu.<n>.").replace("gpu_0_", "gpu_<n>_") for text in (key, name)
        ]
        yield code(shown[0]), code(shown[1]), "bytes / 10⁶" if value == 1.0 else "the same"


def _paths(module: ModuleType) -> list[tuple[str, str]]:
    """Return the texts among a module's constants, by name."""
    named = {name: value for name, value in vars(module).items() if name.isupper()}
    return [(code(name), code(value)) for name, value in named.items() if isinstance(value, str)]


# -- MLflow to W&B --------------------------------------------------------------------------------


def _into_wandb() -> Iterable[str]:
    yield f"## From MLflow to W&B\n\nVersion {to_wandb.MAPPING_VERSION} of the rules.\n"
    yield "### Exit codes\n"
    yield table(("MLflow", "W&B"), _pairs(to_wandb.EXIT_CODES))
    yield "### Params\n"
    texts = ["text", "1", "1.0", "0.1", "1e-3", "True", "true", "None", "nan", "007"]
    yield table(
        ("param", "config value"), [(code(t), code(repr(to_wandb.config_value(t)))) for t in texts]
    )
    yield "A number is one only if it prints as the same text.\n"
    yield "### Tags of the program\n"
    tags = ("mlflow.source.name", "mlflow.source.git.commit", "mlflow.source.git.repoURL")
    fields = to_wandb.source_settings({tag: tag for tag in tags})
    yield table(
        ("MLflow", "field of `wandb.Settings`"), [(code(v), code(k)) for k, v in fields.items()]
    )
    yield "### The config's section\n"
    yield f"What W&B has no field for stands below the config key `{to_wandb.MLFLOW_KEY}`:\n"
    yield f"{codes(_section())}.\n"
    yield "### Reserved keys\n"
    yield "A param or a metric with one of these names gets `mlflow.` before it.\n"
    yield table(
        ("of", "names"),
        [
            ("params", codes(filter(None, to_wandb._RESERVED_IN_CONFIG))),
            ("metrics", codes(to_wandb._RESERVED_IN_ROWS)),
        ],
    )
    yield "### Projects and artifacts\n"
    names = ["digits", "a/b", "50% #1?", "x:y"]
    yield table(
        ("name in MLflow", "W&B project", "W&B artifact"),
        [
            (
                code(n),
                code(to_wandb.project_name("{experiment}", n)),
                code(to_wandb.artifact_name(n)),
            )
            for n in names
        ],
    )
    yield "### Constants\n"
    yield table(("constant", "value", "what it is"), _constants(to_wandb))


def _section() -> list[str]:
    """Return the fields of the config's section, of a run that has them all."""
    full = to_wandb.config_section(
        name="n" * 200, user="u", experiment="e", status="FINISHED", start_ms=1, end_ms=2,
        parent="p", tags={"a": "b"}, secrets=Secrets(SECRETS_SHOWN), removed_tags=("c",),
        datasets=[{"name": "d"}], input_models=["m"], registered_files={"m": {}}, traces=1,
        lost={"file": 1}, journal={"rows": 1},
    )  # fmt: skip
    return [*full, to_wandb.FLOAT_PARAMS]


def _constants(module: ModuleType) -> list[tuple[str, str, str]]:
    """Return the module's constants that are texts or numbers and that say what they are."""
    return [
        (code(name), code(str(vars(module)[name])), said)
        for name, said in _docstrings(module).items()
        if isinstance(vars(module)[name], (str, int))
    ]


def _docstrings(module: ModuleType) -> dict[str, str]:
    """Return the text that follows each public constant of a module."""
    body = ast.parse(inspect.getsource(module)).body
    found = {}
    for node, after in itertools.pairwise(body):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if not isinstance(target, ast.Name) or not target.id.isupper() or target.id[0] == "_":
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[target.id] = " ".join(str(after.value.value).replace("``", "`").split())
    return found
