"""The page and the ready config say what DualLogger and torchtune take."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from tests.integrations.torchtune.recipes import EXAMPLE
from tests.support.documents import ROOT
from tests.support.processes import run_command

PAGE = (ROOT / "docs" / "torchtune.md").read_text()


def test_the_page_shows_the_logger_of_the_ready_config() -> None:
    """What one copies from the page is what the recipes under test run with."""
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)
    example = yaml.safe_load(EXAMPLE.read_text())
    assert yaml.safe_load(block) == {"metric_logger": example["metric_logger"]}


@pytest.mark.slow
def test_the_ready_config_and_the_table_of_arguments(env: dict[str, str]) -> None:
    """torchtune finds every component and argument; the table has the logger's, with defaults."""
    code = """
import inspect, sys
from mlflow_wandb_torchtune import DualLogger
from torchtune._cli.tune import main
parameters = inspect.signature(DualLogger).parameters.values()
print([(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD])
sys.argv = ["tune", "validate", sys.argv[1]]
main()
"""
    done = run_command([sys.executable, "-c", code, str(EXAMPLE)], env, ROOT)
    assert "Config is well-formed!" in done.stdout
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (?:`(\w+)`)?", PAGE, re.M)
    table = {name: default for names, default in rows for name in re.findall(r"\w+", names)}
    line = next(line for line in done.stdout.splitlines() if line.startswith("[("))
    arguments = dict(re.findall(r"\('(\w+)', (?:'(\w*)'|None)\)", line))
    assert len(arguments) == 9
    assert table.keys() == arguments.keys()
    assert {name: table[name] for name in ("project", "log_checkpoints")} == {
        "project": arguments["project"], "log_checkpoints": arguments["log_checkpoints"],
    }  # fmt: skip


def test_the_command_line_alone_switches_a_shipped_config(
    env: dict[str, str], tmp_path: Path
) -> None:
    """The page's arguments make torchtune build our logger in place of the config's."""
    import importlib.util

    (shown,) = re.findall(r"^tune run (?:.*\\\n)?.*metric_logger=.*$", PAGE, re.M)
    arguments = re.findall(r"metric_logger\S+", shown)
    [name] = re.findall(r"--config (\S+)", shown)
    spec = importlib.util.find_spec("recipes")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    file = f"{spec.submodule_search_locations[0]}/configs/{name}.yaml"
    code = """
import sys
from torchtune import config
from torchtune.config._parse import TuneRecipeArgumentParser
from torchtune.config._utils import _merge_yaml_and_cli_args
found = TuneRecipeArgumentParser("tune").parse_known_args(["--config", *sys.argv[1:]])
logger = config.instantiate(_merge_yaml_and_cli_args(*found).metric_logger)
print(type(logger).__name__, logger._destination.init["project"])
"""
    command = [sys.executable, "-c", code, file, "output_dir=out", *arguments]
    done = run_command(command, env, tmp_path)
    assert done.stdout.splitlines()[-1] == "DualLogger torchtune"
