"""scikit-learn with W&B's charts of a classifier."""

import numpy as np
import wandb
from sklearn.ensemble import RandomForestClassifier

random = np.random.default_rng(0)
inputs = random.normal(size=(120, 4))
labels = (inputs[:, 0] > 0).astype(int)
model = RandomForestClassifier(n_estimators=5, random_state=0).fit(inputs[:80], labels[:80])
predicted, odds = model.predict(inputs[80:]), model.predict_proba(inputs[80:])
with wandb.init(project="sklearn", config=model.get_params()) as run:
    wandb.sklearn.plot_classifier(
        model, inputs[:80], inputs[80:], labels[:80], labels[80:], predicted, odds,
        ["low", "high"], model_name="forest", feature_names=list("abcd"),
    )  # fmt: skip
    run.log({"accuracy": float((predicted == labels[80:]).mean())})
