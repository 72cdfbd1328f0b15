"""A small real model: a network with one hidden layer that learns to tell two spirals apart."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

HIDDEN, EPOCHS, LEARNING_RATE, BATCH = 48, 40, 0.02, 50
CONFIG = {
    "learning_rate": LEARNING_RATE,
    "epochs": EPOCHS,
    "batch": BATCH,
    "model": {"hidden": HIDDEN, "activation": "tanh"},
}


class Data(NamedTuple):
    """Points, one a row, and their classes, 0 or 1."""

    points: np.ndarray
    classes: np.ndarray


def spirals(count: int, seed: int) -> Data:
    """``count`` noisy points on two spirals that are wound into each other."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, 2, count)
    along = random.uniform(0.25, 1.0, count)
    angle = along * 3 * np.pi + classes * np.pi
    points = np.stack([along * np.cos(angle), along * np.sin(angle)], axis=1)
    return Data(points + random.normal(0, 0.04, points.shape), classes)


class Network:
    """Two inputs, tanh, one logit; trained by Adam on the cross-entropy."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.weights = [
            random.normal(0, 2.0, (2, HIDDEN)),
            random.normal(0, 1.0, HIDDEN),
            random.normal(0, HIDDEN**-0.5, HIDDEN),
            np.zeros(1),
        ]
        self._mean = [np.zeros_like(weight) for weight in self.weights]
        self._square = [np.zeros_like(weight) for weight in self.weights]
        self._updates = 0

    def forward(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The hidden layer and the probability of class 1."""
        inputs, biases, outputs, bias = self.weights
        hidden = np.tanh(points @ inputs + biases)
        return hidden, 1 / (1 + np.exp(-(hidden @ outputs + bias)))

    def step(self, batch: Data) -> tuple[float, float]:
        """One update; the batch's loss and the gradient's norm before it."""
        hidden, chance = self.forward(batch.points)
        error = (chance - batch.classes) / len(batch.classes)
        back = np.outer(error, self.weights[2]) * (1 - hidden**2)
        gradients = [batch.points.T @ back, back.sum(0), hidden.T @ error, error.sum(keepdims=True)]
        self._updates += 1
        for weight, mean, square, gradient in zip(
            self.weights, self._mean, self._square, gradients, strict=True
        ):
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient**2 - square)
            fair_mean = mean / (1 - 0.9**self._updates)
            fair_square = square / (1 - 0.999**self._updates)
            weight -= LEARNING_RATE * fair_mean / (np.sqrt(fair_square) + 1e-8)
        norm = float(np.sqrt(sum(float((gradient**2).sum()) for gradient in gradients)))
        return loss(chance, batch.classes), norm


def loss(chance: np.ndarray, classes: np.ndarray) -> float:
    """Mean cross-entropy in nats."""
    chance = np.clip(chance, 1e-7, 1 - 1e-7)
    return float(-np.mean(classes * np.log(chance) + (1 - classes) * np.log(1 - chance)))


def train(run: Any, seed: int) -> float:
    """Train a network and log it to ``run``; returns the accuracy on data it has not seen."""
    training, held_out = spirals(1000, seed), spirals(500, seed + 1000)
    network = Network(seed)
    order = np.random.default_rng(seed)
    run.define_metric("val/*", step_metric="epoch")
    accuracy = 0.0
    for epoch in range(EPOCHS):
        for rows in np.array_split(order.permutation(1000), 1000 // BATCH):
            batch_loss, norm = network.step(Data(training.points[rows], training.classes[rows]))
            run.log({"train/loss": batch_loss, "train/gradient_norm": norm})
        _, chance = network.forward(held_out.points)
        accuracy = float(np.mean((chance > 0.5) == held_out.classes))
        run.log(
            {
                "epoch": epoch,
                "val/loss": loss(chance, held_out.classes),
                "val/accuracy": accuracy,
            }
        )
    return accuracy
