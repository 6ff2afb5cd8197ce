"""Architectures: what they refuse, and what a file brings back."""

import pytest
import torch

from probnet.bnn import BayesianConvNet, BayesianMLP
from probnet.bnn.networks import network_from_dict


@pytest.mark.parametrize(
    "network",
    [
        BayesianMLP(3, [5, 4], activation="relu", family="flow", output_dim=2),
        BayesianConvNet((1, 4, 4), num_channels=3, num_blocks=1, output_dim=2),
    ],
)
def test_a_description_gives_the_network_back(network):
    again = network_from_dict(network.to_dict())
    assert again == network
    assert again.shapes == network.shapes


def test_feature_networks_have_no_output_bias():
    """An output bias would add a constant to the covariance."""
    assert list(BayesianMLP(2, [7], family="rff").shapes) == ["w1", "b1", "w2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_dim": 0, "hidden": [3]}, "`input_dim` must be at least 1"),
        ({"input_dim": 1, "hidden": [0]}, r"`hidden\[0\]` must be at least 1"),
        ({"input_dim": 1, "hidden": [3], "family": "gaussia"}, "Did you mean 'gaussian'"),
        ({"input_dim": 1, "hidden": [3], "activation": "tan"}, "Did you mean 'tanh'"),
        ({"input_dim": 1, "hidden": [3, 3], "family": "rff"}, "one width for family='rff'"),
    ],
)
def test_bad_architectures_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BayesianMLP(**arguments)


def test_weights_by_name_and_with_batch_axes():
    network = BayesianMLP(2, [5])
    weights = network.prior().sample(6, seed=0)
    assert network.functions(torch.zeros(3, 2).double(), weights).shape == (6, 3, 1)
