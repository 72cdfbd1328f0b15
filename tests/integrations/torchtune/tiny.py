"""A llama of 60,000 parameters, its tokenizer and its data: imported by the recipes under test.

``python -m tests.integrations.torchtune.tiny FOLDER`` makes the base model and the data.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torchtune.models.llama2 import llama2, lora_llama2

SHAPE = {
    "vocab_size": 64,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 4,
    "embed_dim": 32,
    "max_seq_len": 256,
}
BESIDE_THE_MODEL = ("README.md", "generation_config.json", "adapter_config.json")
"""What a downloaded model brings along; torchtune copies it to every checkpoint."""


def model() -> Any:
    return llama2(**SHAPE)


def lora_model(**lora: Any) -> Any:
    return lora_llama2(**SHAPE, **lora)


class LossThatBreaks(torch.nn.CrossEntropyLoss):
    """Breaks when it is computed for the ``at``-th time on ``rank``, or kills the process."""

    def __init__(self, at: int, rank: int = 0, kills: bool = False) -> None:
        super().__init__()
        self._kills = kills
        self._left = at
        self._mine = int(os.environ.get("RANK", "0")) == rank

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self._left -= 1
        if self._left == 0 and self._mine and self._kills:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._left == 0 and self._mine:
            raise RuntimeError("the loss broke")
        return super().forward(*args, **kwargs)


def make(folder: Path) -> None:
    """The base model in Hugging Face's format, a tokenizer and a data set, below ``folder``."""
    from safetensors.torch import save_file
    from sentencepiece import SentencePieceTrainer
    from torchtune.models.convert_weights import tune_to_hf

    torch.manual_seed(0)
    base = folder / "base"
    base.mkdir(parents=True)
    heads = {"num_heads": 4, "num_kv_heads": 4, "dim": 32}
    weights = tune_to_hf(model().state_dict(), **heads)
    save_file({k: v.contiguous() for k, v in weights.items()}, base / "model.safetensors")
    config = {"num_attention_heads": 4, "num_key_value_heads": 4, "hidden_size": 32}
    (base / "config.json").write_text(json.dumps(config))
    for name in BESIDE_THE_MODEL:
        (base / name).write_text("{}")
    words = random.Random(0)
    texts = ["".join(words.choices("abcdef ", k=20)) for _ in range(200)]
    tokenizer = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=tokenizer,
        vocab_size=SHAPE["vocab_size"],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (base / "tokenizer.model").write_bytes(tokenizer.getvalue())
    rows = [{"input": text[:10], "output": text[10:]} for text in texts[:16]]
    (folder / "data.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
