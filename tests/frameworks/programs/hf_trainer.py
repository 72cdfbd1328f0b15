"""A Hugging Face Trainer that fine-tunes a tiny BERT, made from a config, on random tokens.

Usage: hf_trainer.py wandb|wandb,mlflow
"""

import sys

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

torch.manual_seed(0)
config = BertConfig(
    vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
)
model = BertForSequenceClassification(config)


def examples(count):
    tokens = torch.randint(0, 50, (count, 8))
    return [{"input_ids": row, "labels": int(row.sum()) % 2} for row in tokens]


def accuracy(predicted):
    return {"accuracy": float((predicted.predictions.argmax(-1) == predicted.label_ids).mean())}


arguments = TrainingArguments(
    output_dir="trained", report_to=sys.argv[1].split(","), run_name="tiny-bert",
    num_train_epochs=3, per_device_train_batch_size=8, logging_steps=2, eval_strategy="epoch",
    save_strategy="epoch", use_cpu=True, disable_tqdm=True, seed=0,
)  # fmt: skip
trainer = Trainer(
    model=model, args=arguments, train_dataset=examples(32), eval_dataset=examples(16),
    compute_metrics=accuracy,
)  # fmt: skip
trainer.train()
trainer.evaluate()
