"""Hugging Face's Trainer with `report_to="wandb"`: one line adds MLflow.

    python examples/hf_trainer.py

It needs torch, transformers and accelerate, and downloads nothing: the model is a tiny BERT with
random weights. W&B runs offline unless WANDB_MODE says otherwise; MLflow is mlflow.db in the
current folder unless MLFLOW_TRACKING_URI says otherwise.
"""

import os

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_PROJECT", "examples")
os.environ.setdefault("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import mlflow_wandb_plugin

mlflow_wandb_plugin.autolog()  # the line; the rest is a script that knows W&B alone
torch.manual_seed(0)


def sequences(count):
    """Random tokens, with the parity of their sum as the label."""
    tokens = torch.randint(0, 50, (count, 8))
    return [{"input_ids": row, "labels": int(row.sum()) % 2} for row in tokens]


model = BertForSequenceClassification(
    BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
)
arguments = TrainingArguments(
    output_dir="trained",
    report_to="wandb",
    run_name="hf-trainer",
    num_train_epochs=2,
    per_device_train_batch_size=8,
    logging_steps=1,
    save_strategy="no",
    use_cpu=True,
    disable_tqdm=True,
)
Trainer(model=model, args=arguments, train_dataset=sequences(32)).train()
