"""MultiONet against the formula written out, and its derivatives against reverse mode."""

import math

import pytest
import torch

from probnet.neural_operator import ComponentNetworks, MultiONet
from probnet.neural_operator.components import decoder_from_options
from probnet.neural_operator.multionet import ACTIVATIONS


def _small(**options):
    defaults = {"num_dims": 2, "latent_dim": 4, "width": 6, "depth": 4, "sum_layers": 3}
    defaults["initial_weight"] = 1.0
    return MultiONet(**{**defaults, **options}, seed=1).double()


def _by_formula(net, point, latent):
    """Equation by equation, one point and one latent vector, with the paper's activations."""
    t, b, terms = point, latent, []
    for trunk, branch in zip(net.trunk_layers, net.branch_layers, strict=True):
        z = trunk.weight @ t + trunk.bias
        t = torch.tanh(torch.sin(math.pi * (z + 1))) + z
        z = branch.weight @ b + branch.bias
        b = torch.nn.functional.silu(z) + z
        terms.append(torch.dot(t, b))
    summed = torch.stack(terms[-net.sum_layers :])
    return net.bias[0] + torch.dot(net.layer_weights, summed) / net.sum_layers


@pytest.fixture
def points():
    return torch.rand(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def latents():
    return torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("sum_layers", [1, 3])
def test_values_are_those_of_the_formula(points, latents, sum_layers):
    net = _small(sum_layers=sum_layers, branch_activation="silu_id")
    with torch.no_grad():
        net.layer_weights.copy_(torch.linspace(0.5, 2, sum_layers))
        net.bias.fill_(0.3)
    expected = torch.stack(
        [torch.stack([_by_formula(net, p, z) for p in points]) for z in latents]
    )
    torch.testing.assert_close(net(points, latents), expected)


def test_repeated_points_give_the_values_of_shared_points(points, latents):
    for net in (_small(), _small(num_outputs=2)):
        repeated = net(points.expand(3, 5, 2), latents)
        torch.testing.assert_close(repeated, net(points, latents))


def test_vector_valued_network_treats_latents_as_tokens(points, latents):
    net = _small(num_outputs=2)
    tokens = torch.zeros(3, 5, 4, dtype=torch.float64)
    for j in range(4):
        t, b = points, latents[:, j : j + 1]
        for layer, (trunk, branch) in enumerate(
            zip(net.trunk_layers, net.branch_layers, strict=True)
        ):
            t, b = ACTIVATIONS["tanh_sin"](trunk(t)), ACTIVATIONS["tanh_sin"](branch(b))
            if layer >= 1:
                tokens[:, :, j] += b @ t.T / 3
    torch.testing.assert_close(net(points, latents), net.output(tokens))


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("silu_id", lambda z: torch.nn.functional.silu(z) + z),
        ("silu_sin", lambda z: torch.nn.functional.silu(torch.sin(math.pi * (z + 1))) + z),
        ("tanh_sin", lambda z: torch.tanh(torch.sin(math.pi * (z + 1))) + z),
    ],
)
def test_activations(name, formula):
    z = torch.linspace(-3, 3, 101, dtype=torch.float64)
    torch.testing.assert_close(ACTIVATIONS[name](z), formula(z), rtol=0, atol=1e-14)


def test_parameter_count_is_that_of_the_reference():
    net = MultiONet(num_dims=2, latent_dim=128, width=100, depth=5, sum_layers=4)
    assert sum(p.numel() for p in net.parameters()) == 94_005
    smooth = MultiONet(num_dims=2, latent_dim=128, width=100, depth=6, sum_layers=5)
    assert sum(p.numel() for p in smooth.parameters()) == 114_206


def test_output_is_zero_at_the_start_of_the_reference(points, latents):
    assert not _small(initial_weight=0.0)(points, latents).any()
    assert _small()(points, latents).abs().min() > 0


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)]
)
def test_gradient_equals_reverse_mode_on_repeated_points(dtype, tolerance):
    net = MultiONet(width=40, latent_dim=16, initial_weight=1.0).to(dtype)
    rng = torch.Generator().manual_seed(2)
    points = torch.rand(50, 2, generator=rng, dtype=dtype)
    latents = torch.randn(8, 16, generator=rng, dtype=dtype)
    values, slopes = net.value_and_gradient(points, latents)
    repeated = points.expand(8, 50, 2).clone().requires_grad_()
    reference = net(repeated, latents)
    (gradient,) = torch.autograd.grad(reference.sum(), repeated)
    assert (values - reference).abs().max() < tolerance * reference.abs().max()
    assert (slopes.movedim(0, -1) - gradient).abs().max() < tolerance * gradient.abs().max()


def test_parameters_get_the_gradient_of_reverse_mode_through_the_forward_pass(points, latents):
    net = _small()
    _, slopes = net.value_and_gradient(points, latents)
    shared = torch.autograd.grad(
        slopes.square().sum(), list(net.parameters()), allow_unused=True
    )
    repeated = points.expand(3, 5, 2).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(repeated, latents).sum(), repeated, create_graph=True)
    reference = torch.autograd.grad(
        gradient.square().sum(), list(net.parameters()), allow_unused=True
    )
    for mine, theirs in zip(shared, reference, strict=True):
        if theirs is not None and mine is not None:
            torch.testing.assert_close(mine, theirs)
    assert sum(g is not None for g in shared) >= len(list(net.parameters())) - 1  # b₀ has none


def test_second_derivatives_equal_nested_reverse_mode(points, latents):
    net = _small(num_outputs=2)
    values, gradients, hessians = net.derivatives(points, order=2)
    torch.testing.assert_close(values, net.features(points))
    coefficients = net.coefficients(latents)
    mine = torch.stack([
        torch.stack([net.combine(h, coefficients, bias=False) for h in row]) for row in hessians
    ])  # fmt: skip
    for i, p in enumerate(points):
        for b in range(3):
            for c in range(2):

                def value(x, b=b, c=c):
                    return net(x[None], latents[b : b + 1])[0, 0, c]

                expected = torch.autograd.functional.hessian(value, p)
                torch.testing.assert_close(mine[:, :, b, i, c], expected)
    torch.testing.assert_close(gradients, net.derivatives(points)[1])


def test_equal_seeds_give_equal_networks(points, latents):
    first, again, other = (
        MultiONet(latent_dim=4, width=6, initial_weight=1.0, seed=s).double() for s in (3, 3, 4)
    )
    assert torch.equal(first(points, latents), again(points, latents))
    assert not torch.equal(first(points, latents), other(points, latents))
    copy = first.like(seed=3)
    assert copy.options() == first.options()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sum_layers": 4}, "`sum_layers` must be below `depth`"),
        ({"width": [6, 6, 6, 7]}, "must be the same for the last 3 layers"),
        ({"width": [6, 6]}, "one entry per layer"),
        ({"trunk_activation": "tanh_sine"}, "Did you mean 'tanh_sin'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        _small(**options)


def test_bad_shapes_are_refused(points, latents):
    net = _small()
    with pytest.raises(ValueError, match=r"`points` must have shape \(n, 2\)"):
        net(points[:, :1], latents)
    with pytest.raises(ValueError, match=r"`latents` must have shape \(B, 4\)"):
        net(points, latents[:, :3])
    with pytest.raises(ValueError, match="`order` must be 1 or 2"):
        net.derivatives(points, order=3)


@pytest.mark.parametrize("num_outputs", [None, 2])
def test_rescaling_multiplies_the_output(points, latents, num_outputs):
    net = _small(num_outputs=num_outputs)
    factors = torch.tensor([1.5] if num_outputs is None else [1.5, -2.0], dtype=torch.float64)
    expected = net(points, latents) * (factors[0] if num_outputs is None else factors)
    net.rescale(factors)
    torch.testing.assert_close(net(points, latents), expected)


def test_first_layers_may_be_narrower(points, latents):
    assert _small(width=[3, 6, 6, 6])(points, latents).shape == (3, 5)


def test_components_are_networks_of_their_own(points, latents):
    both = ComponentNetworks(_small(), 2, seed=3).double()
    values = both(points, latents)
    assert values.shape == (3, 5, 2)
    for i, net in enumerate(both.members):
        torch.testing.assert_close(values[..., i], net(points, latents))
    assert not torch.equal(values[..., 0], values[..., 1])
    factors = torch.tensor([2.0, -1.0], dtype=torch.float64)
    both.rescale(factors)
    torch.testing.assert_close(both(points, latents), values * factors)
    again = decoder_from_options(both.options()).double()
    again.load_state_dict(both.state_dict())
    assert torch.equal(again(points, latents), both(points, latents))
    assert len(both.inner_weights()) == 2 * 6
    with pytest.raises(ValueError, match="must be a scalar network"):
        ComponentNetworks(_small(num_outputs=2), 2)
