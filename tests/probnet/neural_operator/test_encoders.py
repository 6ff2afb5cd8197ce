"""Encoders: sizes of the reference, laws, standardisation."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from probnet.neural_operator import ConvEncoder, DenseEncoder


def _count(module):
    return sum(p.numel() for p in module.parameters())


def test_sizes_are_those_of_the_reference():
    assert _count(DenseEncoder(law="deterministic")) == 595_328
    assert _count(ConvEncoder(law="deterministic")) == 140_416
    burgers = DenseEncoder(grid=(128,), hidden=(256, 128, 64), law="deterministic")
    assert burgers(torch.zeros(2, 128)).mean.shape == (2, 128)


@pytest.mark.parametrize("kind", [DenseEncoder, ConvEncoder])
def test_laws(kind):
    inputs = torch.randn(6, 81, generator=torch.Generator().manual_seed(0))
    options = {"grid": (9, 9), "latent_dim": 5, "hidden": (16,), "seed": 2}
    if kind is ConvEncoder:
        options["channels"] = (4, 4)
    point = kind(**options, law="deterministic")(inputs)
    assert not point.scale.any()
    assert point.mean.abs().max() < 1
    law = kind(**options)(inputs)
    assert law.mean.shape == law.scale.shape == (6, 5)
    assert (law.scale > 0).all()
    again = kind(**options)
    assert torch.equal(again(inputs).mean, law.mean)
    other = again.like(seed=3)
    assert other.options() == again.options()
    assert not torch.equal(other(inputs).mean, law.mean)


def test_kl_is_that_of_torch():
    inputs = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    law = DenseEncoder(grid=(9,), latent_dim=5, hidden=(16,))(inputs)
    expected = kl_divergence(Normal(law.mean, law.scale), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(law.kl(), expected)


def test_inputs_are_standardised_node_by_node():
    generator = torch.Generator().manual_seed(0)
    inputs = 3 + torch.tensor([1.0, 10.0, 0.0]) * torch.randn(500, 3, generator=generator)
    encoder = DenseEncoder(grid=(3,), latent_dim=2, hidden=(4,))
    plain = DenseEncoder(grid=(3,), latent_dim=2, hidden=(4,))
    encoder.standardize(inputs)
    standardized = (inputs - inputs.mean(0)) / inputs.std(0, correction=0)
    standardized[:, 2] = 0.0  # this node never varies
    torch.testing.assert_close(encoder(inputs).mean, plain(standardized).mean)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="`law` must be one of"):
        DenseEncoder(law="gauss")
    with pytest.raises(ValueError, match="`grid` must have two axes"):
        ConvEncoder(grid=(81,))
    with pytest.raises(ValueError, match="`grid` must have two axes, long enough"):
        ConvEncoder(grid=(7, 7))
    with pytest.raises(ValueError, match="`inputs` must have shape"):
        DenseEncoder(grid=(3, 3), latent_dim=2, hidden=(4,))(torch.zeros(2, 8))
