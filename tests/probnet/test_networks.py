"""The MLP against hand-written products, in every way of calling it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import functional_call, grad, vmap

from probnet.networks import ACTIVATIONS, MLP

DOUBLE = torch.float64


def make(*arguments, **options):
    """A network, weights in float64 with non-zero biases, and inputs."""
    net = MLP(*arguments, **options)
    generator = torch.Generator().manual_seed(1)
    weights = net.init(generator, dtype=DOUBLE)
    for name in weights:
        weights[name] += 0.1 * torch.randn(
            weights[name].shape, generator=generator, dtype=DOUBLE
        )
    return net, weights, torch.randn(6, net.input_dim, generator=generator, dtype=DOUBLE)


def test_ntk_parametrisation_is_the_formula():
    net, w, x = make(3, [5, 4], 2, parametrization="ntk")
    h = torch.tanh(x @ w["w1"] / math.sqrt(3) + w["b1"])
    h = torch.tanh(h @ w["w2"] / math.sqrt(5) + w["b2"])
    torch.testing.assert_close(net(x, w), h @ w["w3"] / math.sqrt(4) + w["b3"])


def test_standard_parametrisation_is_the_formula_without_the_scales():
    net, w, x = make(3, [5], 2, parametrization="standard", activation="relu")
    expected = torch.relu(x @ w["w1"] + w["b1"]) @ w["w2"] + w["b2"]
    torch.testing.assert_close(net(x, w), expected)
    other = MLP(3, [5], 2, parametrization="ntk", activation="relu")
    assert not torch.allclose(other(x, w), expected)


def test_no_hidden_layer_is_a_linear_model():
    net, w, x = make(3, [])
    torch.testing.assert_close(net(x, w), x @ w["w1"] / math.sqrt(3) + w["b1"])


def test_names_and_shapes_are_declared():
    net = MLP(3, [5], 2, output_bias=False)
    assert dict(net.parameter_shapes) == {"w1": (3, 5), "b1": (5,), "w2": (5, 2)}
    assert {n: tuple(p.shape) for n, p in net.named_parameters()} == dict(net.parameter_shapes)


@given(batch=st.lists(st.integers(1, 3), max_size=2), own_inputs=st.booleans())
def test_batched_weights_equal_a_loop(batch, own_inputs):
    net = MLP(2, [4, 3])
    generator = torch.Generator().manual_seed(0)
    weights = net.init(generator, batch, dtype=DOUBLE)
    shape = (*batch, 5, 2) if own_inputs else (5, 2)
    x = torch.randn(shape, generator=generator, dtype=DOUBLE)
    out = net(x, weights)
    assert out.shape == (*batch, 5, 1)
    for index in torch.cartesian_prod(*map(torch.arange, batch)) if batch else [()]:
        i = tuple(torch.as_tensor(index).reshape(-1).tolist())
        single = net(x[i] if own_inputs else x, {n: w[i] for n, w in weights.items()})
        torch.testing.assert_close(out[i], single)


def test_module_functional_call_and_vmap_agree():
    net, w, x = make(3, [5])
    expected = net(x, w)
    torch.testing.assert_close(functional_call(net, w, (x,)), expected)
    stacked = {n: torch.stack([v, v + 1]) for n, v in w.items()}
    by_vmap = vmap(lambda weights: net(x, weights))(stacked)
    torch.testing.assert_close(by_vmap, net(x, stacked))
    torch.testing.assert_close(by_vmap[0], expected)
    own = {n: p.detach() for n, p in net.named_parameters()}
    torch.testing.assert_close(net(x.float()), net(x.float(), own))


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_gradients_are_right(activation):
    net, w, x = make(2, [3], activation=activation)
    names = list(w)
    tensors = [w[name].requires_grad_() for name in names]
    assert torch.autograd.gradcheck(
        lambda *t: net(x, dict(zip(names, t, strict=True))), tensors
    )
    by_func = grad(lambda weights: net(x, weights).sum())(w)
    by_tape = torch.autograd.grad(net(x, w).sum(), tensors)
    for name, tensor in zip(names, by_tape, strict=True):
        torch.testing.assert_close(by_func[name], tensor)


@pytest.mark.parametrize("parametrization", ["ntk", "standard"])
def test_initial_variance_does_not_depend_on_width_or_depth(parametrization):
    """Of a linear network without bias: E[f(x)²] = |x|²/d, here 1, exactly."""
    count = 4000
    for hidden in ([200], [20, 50, 20]):
        net = MLP(4, hidden, activation="identity", parametrization=parametrization)
        weights = net.init(torch.Generator().manual_seed(0), (count,), dtype=DOUBLE)
        f = net(torch.ones(1, 4, dtype=DOUBLE), weights)[:, 0, 0]
        spread = (f**2).std() / math.sqrt(count)
        assert abs((f**2).mean() - 1) < 5 * spread


def test_without_the_scale_the_variance_does_depend_on_width():
    """Negative control: weights of the NTK initialisation in the standard formula."""
    weights = MLP(4, [200]).init(torch.Generator().manual_seed(0), (1000,), dtype=DOUBLE)
    plain = MLP(4, [200], activation="identity", parametrization="standard")
    f = plain(torch.ones(1, 4, dtype=DOUBLE), weights)[:, 0, 0]
    assert (f**2).mean() > 100


def test_seeds_decide_the_weights_and_nothing_global():
    before = torch.get_rng_state()
    first, again, other = (MLP(2, [3], seed=s) for s in (4, 4, 5))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.w1, again.w1)
    assert not torch.equal(first.w1, other.w1)


def test_a_function_is_an_activation():
    net, w, x = make(2, [3], activation=lambda h: math.sqrt(2) * torch.cos(h))
    cosine = MLP(2, [3], activation="cos")
    without_bias = {**w, "b2": torch.zeros(1, dtype=DOUBLE)}
    torch.testing.assert_close(net(x, without_bias), math.sqrt(2) * cosine(x, without_bias))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"input_dim": 0}, ValueError, "`input_dim` must be at least 1"),
        ({"hidden": [5, 0]}, ValueError, r"`hidden\[1\]` must be at least 1"),
        ({"hidden": [2.5]}, TypeError, r"`hidden\[0\]` must be an integer"),
        ({"output_dim": -1}, ValueError, "`output_dim`"),
        ({"activation": "rely"}, ValueError, "Did you mean 'relu'"),
        ({"parametrization": "mup"}, ValueError, "`parametrization` must be one of"),
    ],
)
def test_bad_settings_are_named(options, error, message):
    with pytest.raises(error, match=message):
        MLP(**{"input_dim": 2, "hidden": [3], **options})


def test_bad_inputs_and_weights_are_named():
    net, w, x = make(1, [3])
    with pytest.raises(ValueError, match=r"Did you mean `x\[:, None\]`"):
        net(x[:, 0], w)
    with pytest.raises(ValueError, match=r"`x` must have shape \(n, 1\)"):
        net(torch.ones(4, 2, dtype=DOUBLE), w)
    with pytest.raises(TypeError, match=r"net.double\(\)"):
        net(x)
    with pytest.raises(ValueError, match="must have the names"):
        net(x, {"w1": w["w1"]})
    with pytest.raises(
        ValueError, match=r"`weights\['w2'\]` must have shape \(\*batch, 3, 1\)"
    ):
        net(x, {**w, "w2": w["w2"].T})
