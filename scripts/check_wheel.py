"""Build the sdist and from it the wheel, install that away from the checkout, and use it there.

The wheel of the checkout has the same files. An editable install finds every file of the checkout,
so only this shows that the wheel has them all. The second environment borrows this one's packages,
but not its editable install.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

SMOKE = """
import importlib, pkgutil, sys
from importlib.metadata import distribution
from pathlib import Path

import mlflow_wandb_plugin

home = Path(mlflow_wandb_plugin.__file__).parent
assert home.is_relative_to(sys.prefix), f"imported from {home}, not from the wheel"
names = [module.name for module in pkgutil.walk_packages([str(home)], "mlflow_wandb_plugin.")]
for name in names:
    importlib.import_module(name)
for name in ("mlflow_wandb_flyte", "mlflow_wandb_ray", "mlflow_wandb_torchtune"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Its third party comes with an extra; the package itself has to be in the wheel.
        assert not error.name.startswith("mlflow_wandb"), error
    names.append(name)
assert (home / "live" / "sitecustomize" / "sitecustomize.py").is_file()
assert (home / "py.typed").is_file()
entries = distribution("mlflow-wandb-plugin").entry_points
assert {"mlflow-wandb", "w2m"} <= entries.names
for entry in entries:
    entry.load()
print(f"{len(names)} modules and {len(entries)} entry points load")
"""

TRAINING = """
import wandb
with wandb.init(project="wheel") as run:
    for step in range(3):
        run.log({"loss": 1 / (step + 1)})
"""

LOOK = """
from mlflow import MlflowClient
client = MlflowClient()
experiment = client.get_experiment_by_name("wheel")
[run] = client.search_runs([experiment.experiment_id])
losses = [point.value for point in client.get_metric_history(run.info.run_id, "loss")]
assert losses == [1.0, 0.5, 1 / 3], losses
assert run.data.tags["mlflow.wandb.state"] == "complete", run.data.tags
print("a run was dual-written by the wheel")
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="mlflow-wandb-wheel-") as folder:
        place = Path(folder)
        python = install(build(place / "dist"), place / "venv")
        command = python.with_name("mlflow-wandb")
        env = environment(place)
        use = Use(place, env)
        use([command, "--help"], quiet=True)
        use([python, "-c", SMOKE])
        (place / "train.py").write_text(TRAINING)
        use([command, "run", "--", str(python), "train.py"])
        use([python, "-c", LOOK])


def build(folder: Path) -> Path:
    """Build the wheel of the checkout's sdist in ``folder``; it has the files of the checkout's."""
    sdist_of = (sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory")
    subprocess.run([*sdist_of, str(folder)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    [sdist] = folder.glob("*.tar.gz")
    wheel, direct = (wheel_of(one, folder / name) for one, name in ((sdist, "s"), (ROOT, "c")))
    assert files_in(wheel) == files_in(direct), files_in(wheel) ^ files_in(direct)
    print(f"{sdist.name}: its wheel has the {len(files_in(wheel))} files of the checkout's")
    return wheel


def wheel_of(source: Path, folder: Path) -> Path:
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder))
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True)
    [wheel] = folder.glob("*.whl")
    return wheel


def files_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as opened:
        return set(opened.namelist())


def install(wheel: Path, folder: Path) -> Path:
    """The Python of a new environment that has the wheel, and this one's other packages."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", str(python))
    subprocess.run([*pip, "install", "--quiet", "--no-deps", str(wheel)], check=True)
    # A path that stands in a .pth file is not searched for .pth files itself: the editable
    # install of this environment, which is one, stays out.
    ours = sysconfig.get_path("purelib")
    theirs = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    Path(theirs, "borrowed.pth").write_text(f"{ours}\n")
    return python


def environment(place: Path) -> dict[str, str]:
    """Nobody's account, and no way back into the checkout."""
    dropped = ("WANDB_", "MLFLOW_", "PYTHONPATH")
    env = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return env | {
        "HOME": str(place),
        "WANDB_MODE": "offline",
        "WANDB_ERROR_REPORTING": "false",
        "MLFLOW_TRACKING_URI": f"sqlite:///{place / 'mlflow.db'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # A busy machine is no fault of the wheel's.
        "MLFLOW_WANDB_FINISH_TIMEOUT": "240",
    }


class Use:
    """Runs commands in the new environment, away from the checkout."""

    def __init__(self, place: Path, env: dict[str, str]) -> None:
        self._place, self._env = place, env

    def __call__(self, command: list[str | Path], quiet: bool = False) -> None:
        out = subprocess.DEVNULL if quiet else None
        subprocess.run(command, cwd=self._place, env=self._env, check=True, timeout=300, stdout=out)


if __name__ == "__main__":
    main()
