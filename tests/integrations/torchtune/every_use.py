"""Every use of DualLogger that test_logger.py looks at, one after another in one process."""

import gc
import json
import os
import pathlib

import mlflow
import numpy as np
import torch
import wandb
from omegaconf import OmegaConf
from torchtune import config as tune_config
from torchtune.training import FullModelTorchTuneCheckpointer
from torchtune.training.metric_logging import MetricLoggerInterface

from mlflow_wandb_plugin.errors import UsageError

found = {}
COMPONENT = "mlflow_wandb_torchtune.DualLogger"
os.environ["SOME_API_KEY"] = "sesame-open-the-door"


def recipe_config(output_dir, **logger):
    return OmegaConf.create(
        {
            "output_dir": output_dir,
            "seed": 7,
            "epochs": 3,
            "max_steps_per_epoch": None,
            "model": {"_component_": "m", "sizes": [1, 2], "deep": {"er": 0.5}},
            "data": "${output_dir}/data",
            "flag": True,
            "metric_logger": {"_component_": COMPONENT, "project": "unit", **logger},
        }
    )


def dual_logger(output_dir="out", **logger):
    config = recipe_config(output_dir, **logger)
    made = tune_config.instantiate(config.metric_logger)
    return made, config


# -- everything that the two loggers of torchtune take, and the values that recipes log
logger, config = dual_logger(
    "out/full",
    entity="tester",
    group="g1",
    log_dir="new/logs",
    experiment_name="exp-{project}",
    tracking_uri=os.environ["MLFLOW_TRACKING_URI"],
    run_name="a name",
    id="full",
    tags=["one", "two"],
    notes="some notes",
    job_type="finetune",
    settings={"x_stats_disk_paths": []},
)
config.hub = {
    "url": "https://me:pass-word@host/x",
    "hf_token": "abc",
    "key": "${oc.env:SOME_API_KEY}",
}
found["interface"] = MetricLoggerInterface in type(logger).__mro__
logger.log_config(config)
logger.log("single", 1.5, 1)
logger.log_dict(
    {
        "float": 0.5,
        "int": 3,
        "t32": torch.tensor(0.1),
        "bf16": torch.tensor(0.5, dtype=torch.bfloat16),
        "grad": torch.tensor(2.0, requires_grad=True) * 2,
        "one": torch.tensor([7]),
        "np0": np.array(1.25),
        "np32": np.float32(0.25),
        "nan": torch.tensor(float("nan")),
    },
    2,
)
for number, step in enumerate((5, 6, 7, 6, 7, 8)):
    logger.log_dict({"loss": 1 / (step + number)}, torch.tensor(step))
logger.close()
logger.close()
logger.log("late", 1, 9)
found["wandb files below"] = [path.name[:3] for path in pathlib.Path("new/logs/wandb").iterdir()]
found["kept"] = json.loads(pathlib.Path("out/full/dual_logger.json").read_text())
found["own copy"] = pathlib.Path("out/full/torchtune_config.yaml").is_file()

# -- no config, no step but one
logger, _ = dual_logger(id="bare")
logger.log("loss", 1, 0)
logger.close()

# -- W&B's own rank zero
os.environ.update(RANK="1", WORLD_SIZE="2")
logger, config = dual_logger("out/rank1", id="rank1", log_dir="rank1-logs")
logger.log_config(config)
logger.log("loss", 1, 1)
logger.log_checkpoint("nowhere", 0)
logger.close()
found["rank one wrote"] = [name for name in ("rank1-logs", "out/rank1") if os.path.exists(name)]
del os.environ["RANK"], os.environ["WORLD_SIZE"]


# -- a recipe that crashes in a program that goes on
def crashes(run_id):
    logger, config = dual_logger(f"out/{run_id}", id=run_id)
    logger.log_config(config)
    logger.log("loss", 1, 1)
    raise RuntimeError("no")


try:
    crashes("crashed")
except RuntimeError:
    pass
gc.collect()

# -- one whose remains are still there when the next begins
try:
    crashes("remains")
except RuntimeError as error:
    remains = error

# -- cleaned up after in a finally
logger, config = dual_logger("out/cleaned", id="cleaned")
logger.log_config(config)
try:
    try:
        logger.log("loss", 1, 1)
        raise RuntimeError("no")
    finally:
        logger.close()
except RuntimeError:
    pass

# -- the fallback that an except block begins ends well
try:
    raise RuntimeError("unrelated")
except RuntimeError:
    logger, config = dual_logger("out/fallback", id="fallback")
    logger.log_config(config)
    logger.log("loss", 1, 1)
    logger.close()

# -- MLflow's own active run, and one that we are given
mlflow.set_experiment("theirs")
with mlflow.start_run(run_name="active") as active:
    logger, config = dual_logger("out/beside", id="beside")
    logger.log_config(config)
    logger.log("loss", 2, 1)
    logger.close()
    found["still active"] = mlflow.active_run().info.run_id == active.info.run_id
    mlflow.log_metric("theirs", 1)
client = mlflow.MlflowClient()
given = client.create_run(active.info.experiment_id).info.run_id
found["given"] = given
logger, config = dual_logger("out/given", id="given", run_id=given)
logger.log_config(config)
logger.log("loss", 4, 3)
logger.close()

# -- a checkpoint of a custom recipe: a file, a folder, nothing
pathlib.Path("saved/sub").mkdir(parents=True)
pathlib.Path("saved/model.pt").write_bytes(b"weights")
pathlib.Path("saved/sub/more.bin").write_bytes(b"more")
logger, config = dual_logger("out/custom", id="custom")
logger.log_config(config)
logger.log("loss", 1, 1)
logger.log_checkpoint("saved/model.pt", 0, {"seed": 3, "epochs_run": 1})
logger.log_checkpoint(pathlib.Path("saved"), epoch=1)
for bad in ("nowhere", "out/none"):
    os.makedirs("out/none", exist_ok=True)
    try:
        logger.log_checkpoint(bad, 2)
    except UsageError as error:
        found.setdefault("refused", []).append(str(error))
logger.close()
try:
    logger.log_checkpoint("saved", 3)
except UsageError as error:
    found["refused"].append(str(error))
try:
    dual_logger(log_checkpoints="some")
except Exception as error:
    found["refused"].append(str(error))

# -- torchtune's checkpointer: the config's own, another of its class, one that cannot be logged
pathlib.Path("base").mkdir()
weights = {"weight": torch.zeros(2)}
torch.save(weights, "base/base.pt")


def checkpointer(output_dir):
    return FullModelTorchTuneCheckpointer("base", ["base.pt"], "LLAMA2", output_dir)


def save(into, epoch, intermediate):
    state = {"model": weights, "seed": 5, "epochs_run": epoch + 1, "total_epochs": 9}
    into.save_checkpoint(dict(state), epoch, intermediate_checkpoint=intermediate)


def refuse(*args, **kwargs):
    raise OSError("no artifact today")


original = FullModelTorchTuneCheckpointer.save_checkpoint
logger, config = dual_logger("out/saving", id="saving", log_checkpoints="final")
config.checkpointer = {
    "_component_": "torchtune.training.FullModelTorchTuneCheckpointer",
    "output_dir": "${output_dir}",
}
logger.log_config(config)
model, value_model = checkpointer("out/saving"), checkpointer("out/value")
save(model, 0, intermediate=True)
save(value_model, 1, intermediate=False)
save(model, 1, intermediate=False)
real, wandb.Artifact = wandb.Artifact, refuse
save(model, 2, intermediate=False)
wandb.Artifact = real
logger.log("loss", 1, 1)
logger.close()
found["put back"] = FullModelTorchTuneCheckpointer.save_checkpoint is original
found["saved"] = sorted(path.name for path in pathlib.Path("out/saving").glob("epoch_*"))

# -- resumes that know no run to go on with, and one whose run the user names
for run_id, kept in {
    "garbage": "{",
    "elsewhere": '{"project": "other", "entity": "", "wandb_run_id": "x"}',
}.items():
    os.makedirs(f"out/{run_id}")
    pathlib.Path(f"out/{run_id}/dual_logger.json").write_text(kept)
    logger, config = dual_logger(f"out/{run_id}", run_name=run_id)
    config.resume_from_checkpoint = True
    logger.log_config(config)
    logger.log("loss", 1, 1)
    logger.close()
    found[run_id] = json.loads(pathlib.Path(f"out/{run_id}/dual_logger.json").read_text())
logger, config = dual_logger("out/bare", id="bare")
config.resume_from_checkpoint = True
logger.log_config(config)
logger.log("loss", 2, 1)
logger.close()

# -- a run of W&B's that is open already is logged into, and left open
run = wandb.init(project="unit", id="theirs")
logger, config = dual_logger("out/theirs", id="ignored")
logger.log_config(config)
logger.log("loss", 3, 2)
logger.close()
found["left open"] = wandb.run is run
run.finish()

pathlib.Path("found.json").write_text(json.dumps(found))
