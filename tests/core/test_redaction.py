"""No secret of a config, a command line or a URL is shown, and nothing else is hidden."""

from __future__ import annotations

import time

import pytest

from mlflow_wandb_plugin.core.redaction import HIDDEN, Secrets, without_secrets

KEYS = (
    "hf_" + "aB3" * 11 + "x",
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_" + "a1B2" * 9,
    "github_pat_" + "11ABCDEFG0" * 3,
    "sk-proj-" + "Ab1_-" * 8,
    "sk-" + "T3BlbkFJ" * 6,
    "wandb_v1_" + "Xy7" * 20,
    "local-" + "0123456789abcdef" * 2 + "01234567",
)

ORDINARY = {
    "max_tokens": 512, "pad_token": "<pad>", "tokenizer": "gpt2", "token_count": 1000000,
    "secret_santa_rate": 0.5, "eos_token": "</s>", "bos_token_id": 1, "tokens_per_batch": 2**19,
    "tokenizer_path": "/models/tokenizer.json", "num_tokens": "1e9", "token_dropout": 0.1,
    "special_tokens": ["<s>", "</s>"], "unk_token": "<unk>", "mask_token": "[MASK]",
    "max_new_tokens": 64, "min_tokens": 1, "password_length": 12, "key_dim": 64, "num_keys": 8,
    "keypoints": 17, "key": "train", "monkey": "yes", "hockey_stick": "lr", "passes": 3,
    "pass_through": "yes", "passage_length": 100, "author": "me", "auth_mode": "none",
    "authority_weight": 0.3, "access_pattern": "random", "credential_count": 3,
    "secrets_dataset": "gitleaks", "secretary": "problem", "api": "v1", "api_version": "2024-01",
    "sort_key": "length", "primary_key": "id", "learning_rate": 3e-4, "optimizer": "AdamW",
    "scheduler": "cosine", "weight_decay": 0.01, "betas": [0.9, 0.95], "warmup_steps": 2000,
    "dataset": "s3://bucket/imagenet@v2/train", "checkpoint": "hf://org/model@main",
    "git_commit": "0123456789abcdef0123456789abcdef01234567", "revision": "ab" * 20,
    "model_name_or_path": "sk-learn/gradient-boosting-classifier-baseline",
    "run_name": "sk-ensemble-of-many-many-models-2024", "url": "http://host:5000/a/recall@5.png",
    "use_auth_token": True, "api_key": None, "password": "", "seed": 42, "hf_model": "hf_small",
    "sha256": "0" * 64, "dataloader": {"num_workers": 4, "tokens": [1, 2, 3]},
}  # fmt: skip

NAMED = (
    "api_key", "apikey", "API_KEY", "api-key", "apiKey", "password", "passwd", "secret",
    "secret_key", "access_token", "auth_token", "hf_token", "credentials", "wandb_api_key",
    "OPENAI_API_KEY", "db_password", "aws_secret_access_key", "model.api_key",
)  # fmt: skip


def test_ordinary_names_and_values_of_recipes_are_not_touched() -> None:
    """More than fifty of them, with what stands below them."""
    assert len(ORDINARY) > 50
    assert Secrets().value(ORDINARY) == ORDINARY
    for name, value in ORDINARY.items():
        assert Secrets().value(value, (name,)) == value
    line = [text for name, value in ORDINARY.items() for text in (f"--{name}", str(value))]
    assert Secrets().arguments(line) == line
    equal = [f"{name}={value}" for name, value in ORDINARY.items()]
    assert Secrets().arguments(equal) == equal


@pytest.mark.parametrize("name", NAMED)
def test_a_value_below_a_secret_name_is_hidden(name: str) -> None:
    """In a config, at any depth, and in a command line in all its forms."""
    secrets = Secrets()
    assert secrets.value("open sesame", (name,)) == HIDDEN
    document = {"a": {name: {"user": "me", "list": ["x", 1, True, None]}}}
    shown = secrets.value(document)["a"][name]
    assert (shown["user"], shown["list"][0], shown["list"][2:]) == (HIDDEN, HIDDEN, [True, None])
    line = [
        "train.py",
        f"--{name}",
        "x1",
        f"--{name}=x2",
        f"{name}=x3",
        f"++{name}=x4",
        "--lr",
        "1",
    ]
    assert secrets.arguments(line) == [
        "train.py", f"--{name}", HIDDEN, f"--{name}={HIDDEN}", f"{name}={HIDDEN}",
        f"++{name}={HIDDEN}", "--lr", "1",
    ]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_a_value_with_the_form_of_a_key_is_hidden(key: str) -> None:
    """Whatever its name is, and inside a sentence."""
    secrets = Secrets()
    assert secrets.value({"x": [key]}) == {"x": [HIDDEN]}
    assert secrets.arguments(["--x", key, f"--y={key}"]) == ["--x", HIDDEN, f"--y={HIDDEN}"]
    assert secrets.text(f"run it with {key}, please") == f"run it with {HIDDEN}, please"


def test_an_older_key_of_wandb_is_hidden_where_its_name_tells_it() -> None:
    """It has the form of a git commit."""
    key, secrets = "0123456789" * 4, Secrets()
    assert secrets.value({"wandb": key, "wandb_key": key, "commit": key}) == {
        "wandb": HIDDEN, "wandb_key": HIDDEN, "commit": key,
    }  # fmt: skip
    assert secrets.arguments(["--key", key, "--commit", key]) == ["--key", HIDDEN, "--commit", key]


def test_numbers_below_a_name_of_a_secret() -> None:
    """A password may be all digits; a key is not."""
    assert Secrets().value({"password": 1234, "secret": 7}) == {"password": HIDDEN, "secret": 7}


def test_credentials_in_urls_are_hidden_in_configs_and_command_lines() -> None:
    """The rest of the URL stays."""
    url = "postgresql://me:secret@host/db?token=abc"
    assert Secrets().value({"store": url}) == {"store": "postgresql://host/db?token=***"}
    assert Secrets().arguments([f"--store={url}", url]) == [
        "--store=postgresql://host/db?token=***", "postgresql://host/db?token=***",
    ]  # fmt: skip


def test_a_text_made_to_be_searched_long_is_searched_in_time() -> None:
    """A value of a foreign config does not stop a backfill: the work grows with its length."""
    started = time.process_time()
    for piece in ("://", "://a:", "?password=", "hf_", "sk-", "a_"):
        Secrets().value({piece * 5_000: piece * 50_000})
    assert time.process_time() - started < 20


def test_the_setting_adds_names_or_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are compared as the others are."""
    document = {"my-pin": "1a", "api_key": "x", "url": "https://me:pw@host/"}
    monkeypatch.setenv("MLFLOW_WANDB_SECRET_NAMES", "other, My_Pin")
    assert Secrets.of_setting().value(document) == {
        "my-pin": HIDDEN, "api_key": HIDDEN, "url": "https://host/",
    }  # fmt: skip
    monkeypatch.setenv("MLFLOW_WANDB_SECRET_NAMES", "off")
    assert Secrets.of_setting().value(document) == document
    assert Secrets.of_setting().arguments(["--api-key", "x"]) == ["--api-key", "x"]


def test_secrets_are_hidden_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their key, by their place in a URI, and where the environment knows them; the rest
    stays as it is."""
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "open-sesame")
    document = {
        "lr": 0.1,
        "wandb": {"api_key": "0123", "project": "p"},
        "uri": "https://ann:pass@host/x",
        "lines": ["--token=open-sesame", 3],
        "token": 7,
    }
    assert without_secrets(document) == {
        "lr": 0.1,
        "wandb": {"api_key": HIDDEN, "project": "p"},
        "uri": "https://host/x",
        "lines": [HIDDEN, 3],
        "token": 7,
    }
