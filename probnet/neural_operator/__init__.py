"""Deep generative neural operators: forward and inverse maps of a parametric PDE."""

from probnet.neural_operator.encoders import ConvEncoder, DenseEncoder, Encoder, Encoding
from probnet.neural_operator.multionet import MultiONet

__all__ = ["ConvEncoder", "DenseEncoder", "Encoder", "Encoding", "MultiONet"]
