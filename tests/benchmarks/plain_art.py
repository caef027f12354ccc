"""The loop that a user of ART would write: for every cell a fresh victim, defense, surrogate and attack.

Batches of 64, as in ART's own demonstration of model stealing, for training and for queries; soft labels
where the cell has them.
"""

from __future__ import annotations

import numpy as np
import torch
from art.attacks.extraction import CopycatCNN, KnockoffNets
from art.defences.postprocessor import ClassLabels, GaussianNoise, HighConfidence, ReverseSigmoid, Rounded
from art.estimators.classification import PyTorchClassifier

from bench.models import networks

BATCH = 64
POSTPROCESSORS = {
    "none": None,
    "label_only": ClassLabels,
    "rounded(decimals=1)": lambda: Rounded(decimals=1),
    "high_confidence(cutoff=0.9)": lambda: HighConfidence(cutoff=0.9),
    "gaussian_noise(scale=0.2)": lambda: GaussianNoise(scale=0.2),
    "reverse_sigmoid(beta=1.0, gamma=0.1)": lambda: ReverseSigmoid(beta=1.0, gamma=0.1),
    "reverse_sigmoid(beta=1.0, gamma=0.5)": lambda: ReverseSigmoid(beta=1.0, gamma=0.5),
}
"""What ART has of our defenses, by our name for it."""


class Probabilities(torch.nn.Module):
    """A network with the softmax that ART's postprocessors expect at its end."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return torch.softmax(self.network(x), dim=1)


def classifier(network, shape, classes, *, rate=3e-3, defense=None, device="cpu"):
    """Return ART's classifier around a network, with a postprocessor if there is one."""
    return PyTorchClassifier(
        network,
        loss=torch.nn.CrossEntropyLoss(),
        optimizer=torch.optim.Adam(network.parameters(), lr=rate),
        input_shape=shape,
        nb_classes=classes,
        device_type="cpu" if device == "cpu" else "gpu",
        postprocessing_defences=defense,
    )


def surrogate(architecture, shape, classes, device="cpu"):
    """Return an untrained surrogate."""
    return classifier(networks.build(architecture, shape, classes), shape, classes, device=device)


def fit(trained, x, y, epochs):
    """Train a surrogate."""
    trained.fit(x, y, batch_size=BATCH, nb_epochs=epochs, verbose=False)
    return trained


def attack(name, victim, budget, epochs):
    """Return ART's attack for one of ours, by our name for it."""
    common = {"batch_size_fit": BATCH, "batch_size_query": BATCH, "nb_epochs": epochs, "nb_stolen": budget}
    if name.startswith("copycat"):
        return CopycatCNN(victim, use_probability="use_probability=true" in name, **common)
    adaptive = "adaptive" in name
    return KnockoffNets(
        victim,
        sampling_strategy="adaptive" if adaptive else "random",
        reward="all",
        use_probability="use_probability=true" in name,
        verbose=False,
        **common,
    )


def cell(network, pool, test, architecture, classes, name, defense, budget, epochs, device="cpu"):
    """Run one attack; return the share of test inputs on which surrogate and victim agree."""
    shape = pool.x.shape[1:]
    make = POSTPROCESSORS[defense]
    victim = classifier(network, shape, classes, defense=None if make is None else make(), device=device)
    trained = surrogate(architecture, shape, classes, device)
    labels = np.eye(classes, dtype=np.float32)[pool.y] if "adaptive" in name else None
    trained = attack(name, victim, budget, epochs).extract(x=pool.x, y=labels, thieved_classifier=trained)
    truth = classifier(network, shape, classes, device=device).predict(test.x, batch_size=BATCH)
    return float((trained.predict(test.x, batch_size=BATCH).argmax(1) == truth.argmax(1)).mean())
