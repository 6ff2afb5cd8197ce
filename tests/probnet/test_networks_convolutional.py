"""The residual convolutional network, against a direct evaluation and its own symmetries."""

import pytest
import torch
import torch.nn.functional as F

from probnet.networks import ConvResNet


def _weights(net, *batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(*batch, *shape, generator=generator, dtype=torch.float64)
        for name, shape in net.parameter_shapes.items()
    }


def test_agrees_with_the_formula_written_out():
    net = ConvResNet((2, 5, 4), num_channels=3, num_blocks=1, output_dim=2)
    w = _weights(net)
    x = torch.randn(6, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    h = F.conv2d(x.reshape(6, 2, 5, 4), w["w1"] / 18**0.5, w["b1"], padding=1)
    inner = F.conv2d(F.relu(h), w["w2"] / 27**0.5, padding=1)
    h = (h + F.conv2d(F.relu(inner), w["w3"] / 27**0.5, padding=1)) / 2**0.5
    expected = F.relu(h).reshape(6, 60) @ w["w4"] / 60**0.5 + w["b4"]
    torch.testing.assert_close(net(x, w), expected)


def test_a_batch_of_networks_is_each_of_them():
    net = ConvResNet((1, 4, 4), num_channels=2, num_blocks=1)
    w = _weights(net, 2, 3)
    x = torch.randn(5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    together = net(x, w)
    assert together.shape == (2, 3, 5, 1)
    one = {name: value[1, 2] for name, value in w.items()}
    torch.testing.assert_close(together[1, 2], net(x, one))


def test_rows_do_not_depend_on_each_other():
    net = ConvResNet((1, 4, 4), num_channels=2)
    w = _weights(net)
    x = torch.randn(5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(net(x, w)[:2], net(x[:2], w))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_shape": (4, 4)}, r"must be \(channels, height, width\)"),
        ({"image_shape": (1, 4, 0)}, r"`image_shape\[2\]` must be at least 1"),
        ({"image_shape": (1, 4, 4), "activation": "rel"}, "Did you mean 'relu'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConvResNet(**arguments)


def test_bad_inputs_are_refused():
    net = ConvResNet((1, 4, 4))
    w = _weights(net)
    with pytest.raises(ValueError, match=r"must have shape \(n, 16\)"):
        net(torch.zeros(2, 15).double(), w)
    with pytest.raises(ValueError, match="must have the names"):
        net(torch.zeros(2, 16).double(), {"w1": w["w1"]})
    with pytest.raises(ValueError, match=r"`weights\['b1'\]`"):
        net(torch.zeros(2, 16).double(), {**w, "b1": torch.zeros(3)})
