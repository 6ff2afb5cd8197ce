"""Networks that take their weights as an argument, so that priors and samplers may own them."""

from probnet.networks.convolutional import ConvResNet
from probnet.networks.mlp import ACTIVATIONS, MLP, Activation

__all__ = ["ACTIVATIONS", "MLP", "Activation", "ConvResNet"]
