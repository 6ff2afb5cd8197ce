"""Small networks with random weights, as if they had been trained."""

import copy

import pytest
import torch

from probnet.neural_process import ANP, BANP, BNP, CANP, CNP, MPANP, MPNP, NP, TrainedProcess

SMALL = {
    "CNP": (CNP, {}),
    "CANP": (CANP, {"num_heads": 4}),
    "NP": (NP, {}),
    "ANP": (ANP, {"num_heads": 4}),
    "BNP": (BNP, {"num_heads": 4}),
    "BANP": (BANP, {"num_heads": 4}),
    "MPNP": (MPNP, {"num_heads": 4, "num_pseudo": 6}),
    "MPNP-isab": (MPNP, {"num_heads": 4, "num_pseudo": 6, "generator": "isab"}),
    "MPNP-data": (MPNP, {"num_heads": 4, "num_pseudo": 6, "level": "data"}),
    "MPANP": (MPANP, {"num_heads": 4, "num_pseudo": 6}),
    "MPANP-isab": (MPANP, {"num_heads": 4, "num_pseudo": 6, "generator": "isab"}),
    "MPANP-data": (MPANP, {"num_heads": 4, "num_pseudo": 6, "level": "data"}),
}


@pytest.fixture
def small():
    """Make a small model by a name of `SMALL`, with random weights."""

    def make(name, **options):
        kind, own = SMALL[name]
        model = kind(**{"width": 16, **own, **options})
        model.initialise(1)
        return model

    return make


@pytest.fixture
def pretend():
    """Turn a model into a trained process with the weights that it has."""

    def make(model, **fields):
        network = copy.deepcopy(model).eval().requires_grad_(False)
        given = {
            "x_range": (-2.0, 2.0),
            "max_points": 50,
            "loss_curve": torch.zeros(3),
            "method": "adamw",
            "diagnostics": {},
            **fields,
        }
        return TrainedProcess(network=network, **given)

    return make
