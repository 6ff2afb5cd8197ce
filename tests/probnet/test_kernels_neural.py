"""NNGP and tangent kernels: published check values, finite networks, GPyTorch's battery."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from probnet.kernels import NNGPKernel, NTKernel, conv, conv_resnet, mlp, resnet
from probnet.kernels.neural import kernels as module

X1 = torch.tensor([[1.0, 0.0], [0.5, -1.5]], dtype=torch.float64)
X2 = torch.tensor([[0.3, 0.8], [2.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
SHALLOW = {"w_var": 1.96, "b_var": 0.09, "last_w_var": 1.21, "last_b_var": 0.0}
DEEP = {"w_var": 2.0, "b_var": 0.0, "last_w_var": 1.0}
# Printed by neural-tangents.
CHECKS = [
    (NNGPKernel, 2, SHALLOW, [[0.406981120849, 1.300921702668, 0.169931965182],
                              [0.345306512132, 1.023876738855, 0.228832550975]]),
    (NTKernel, 2, SHALLOW, [[0.760335756341, 3.271230215888, 0.287233762116],
                            [0.321215953164, 1.320555511455, 0.358375860162]]),
    (NNGPKernel, 16, DEEP, [[0.399814159721, 1.082705965739, 0],
                            [0.62380390526, 1.640080904777, 0]]),
    (NTKernel, 16, DEEP, [[2.418406716485, 9.134165852175, 0],
                          [3.406762668561, 9.262369213899, 0]]),
]  # fmt: skip
ARCHITECTURES = {
    "mlp": mlp(3),
    "mlp_erf": mlp(2, "erf"),
    "mlp_tanh": mlp(2, "tanh"),
    "resnet": resnet(2, "relu"),
    "conv": conv(2, "relu", image_shape=(3, 2, 1)),
    "conv_resnet": conv_resnet(1, "erf", image_shape=(3, 2, 1)),
}


@pytest.mark.parametrize(("kind", "depth", "variances", "expected"), CHECKS)
def test_published_values(kind, depth, variances, expected):
    gram = kind(mlp(depth, "relu"), **variances)(X1, X2).to_dense().detach()
    torch.testing.assert_close(
        gram, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10
    )


def dense_network(x, weights, activation, *, residual):
    """Outputs of finite networks, `(networks, n)`: the NTK parametrisation written out."""
    w, b, last = weights
    h = torch.einsum("kdn,id->kin", w[0], x) + b[0][:, None]
    for layer in range(1, len(w)):
        new = activation(h) @ w[layer] + b[layer][:, None]
        h = h + new if residual else new
    return (activation(h) @ last)[..., 0]


@pytest.mark.parametrize(
    ("architecture", "activation", "hidden", "residual"),
    [
        (mlp(2, "relu"), torch.relu, 2, False),
        (mlp(2, "tanh"), torch.tanh, 2, False),
        (resnet(2, "erf"), torch.erf, 3, True),
    ],
)
def test_dense_finite_networks_have_this_covariance(architecture, activation, hidden, residual):
    """Readouts are integrated exactly: the covariance given hidden layers is averaged."""
    width, count, w_var, b_var = 1000, 60, 1.7, 0.2
    noise = torch.Generator().manual_seed(0)
    x = torch.tensor([[1.0, -0.4], [0.3, 0.8], [-1.2, 0.5]], dtype=torch.float64)
    samples = []
    for _ in range(count):
        h, fan_in = x, 2
        for layer in range(hidden):
            w = torch.randn(fan_in, width, generator=noise, dtype=torch.float64)
            b = torch.randn(width, generator=noise, dtype=torch.float64)
            inner = h if layer == 0 else activation(h)
            new = (w_var / fan_in) ** 0.5 * inner @ w + b_var**0.5 * b
            h, fan_in = (h + new if residual and layer else new), width
        a = activation(h)
        samples.append(a @ a.T / width)
    found = torch.stack(samples)
    kernel = NNGPKernel(architecture, w_var=w_var, b_var=b_var)
    error = found.mean(0) - kernel(x).to_dense().detach()
    # A finite width shifts the mean by O(1/width), beside the standard error.
    allowed = 4 * found.std(0) / count**0.5 + 5 / width
    assert (error.abs() < allowed).all()
    assert (found.std(0) / count**0.5 < 0.03).all()  # else the test could not fail


def test_convolutional_finite_networks_have_this_covariance():
    width, count, w_var, b_var = 250, 60, 1.7, 0.2
    noise = torch.Generator().manual_seed(1)
    x = torch.randn(3, 4, 5, 2, generator=noise, dtype=torch.float64)
    images, samples = x.movedim(-1, 1), []
    for _ in range(count):
        h = images
        for layer in range(2):
            inner = h if layer == 0 else torch.relu(h)
            fan_in = inner.shape[1]
            w = torch.randn(width, fan_in, 3, 3, generator=noise, dtype=torch.float64)
            b = torch.randn(width, generator=noise, dtype=torch.float64)
            h = F.conv2d(inner, (w_var / (9 * fan_in)) ** 0.5 * w, b_var**0.5 * b, padding=1)
        a = torch.relu(h).flatten(1)
        samples.append(a @ a.T / a.shape[1])
    found = torch.stack(samples)
    kernel = NNGPKernel(conv(2, image_shape=(4, 5, 2)), w_var=w_var, b_var=b_var)
    error = found.mean(0) - kernel(x).to_dense().detach()
    assert (error.abs() < 4 * found.std(0) / count**0.5 + 5 / width).all()


def test_strided_residual_finite_networks_have_this_covariance():
    width, count, w_var, b_var = 100, 60, 1.2, 0.1
    noise = torch.Generator().manual_seed(2)
    x = torch.randn(2, 5, 4, 1, generator=noise, dtype=torch.float64)

    def convolve(h, stride=1):
        fan_in = h.shape[1]
        w = torch.randn(width, fan_in, 3, 3, generator=noise, dtype=torch.float64)
        b = torch.randn(width, generator=noise, dtype=torch.float64)
        w = (w_var / (9 * fan_in)) ** 0.5 * w
        return F.conv2d(h, w, b_var**0.5 * b, padding=1, stride=stride)

    samples = []
    for _ in range(count):
        h = convolve(x.movedim(-1, 1))
        for stride in (1, 2, 2, 2):
            h = convolve(torch.erf(convolve(torch.erf(h), stride))) + convolve(h, stride)
        a = h.flatten(1)
        samples.append(a @ a.T / a.shape[1])
    found = torch.stack(samples)
    kernel = NNGPKernel(conv_resnet(1, "erf", image_shape=(5, 4, 1)), w_var=w_var, b_var=b_var)
    error = found.mean(0) - kernel(x).to_dense().detach()
    assert (error.abs() < 4 * found.std(0) / count**0.5 + 5 / width).all()


def test_tangent_kernel_is_the_gradients_inner_product():
    """The empirical tangent kernel of one wide network, by autodiff."""
    width, w_var, b_var = 2000, 1.6, 0.3
    noise = torch.Generator().manual_seed(3)
    sizes = [(2, width), (width, width), (width, 1)]
    ws = [torch.randn(s, generator=noise, dtype=torch.float64).requires_grad_() for s in sizes]
    bs = [
        torch.randn(width, generator=noise, dtype=torch.float64).requires_grad_() for _ in "ab"
    ]
    x = torch.tensor([[1.0, -0.4], [0.3, 0.8]], dtype=torch.float64)

    def network(row):
        h = (w_var / 2) ** 0.5 * row @ ws[0] + b_var**0.5 * bs[0]
        h = (w_var / width) ** 0.5 * torch.relu(h) @ ws[1] + b_var**0.5 * bs[1]
        return (torch.relu(h) @ ws[2])[0] / width**0.5

    flat = [
        torch.cat([g.flatten() for g in torch.autograd.grad(network(r), ws + bs)]) for r in x
    ]
    empirical = torch.stack(flat) @ torch.stack(flat).T
    exact = NTKernel(mlp(2), w_var=w_var, b_var=b_var)(x).to_dense().detach()
    torch.testing.assert_close(empirical, exact, rtol=0.1, atol=0)  # O(1/√width)


@pytest.mark.parametrize("kind", [NNGPKernel, NTKernel])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gram_matrix_on_duplicates_and_zero(kind, name):
    """Positive semi-definite, exact diagonal, symmetric, gradients equal to differences."""
    noise = torch.Generator().manual_seed(4)
    x = torch.randn(6, 6, generator=noise, dtype=torch.float64)
    x = torch.cat([x, x[:3], torch.zeros(1, 6, dtype=torch.float64)])
    kernel = kind(ARCHITECTURES[name], w_var=1.8, b_var=0.2)
    gram = kernel(x).to_dense()
    eigenvalues = torch.linalg.eigvalsh(gram.detach())
    assert eigenvalues.min() >= -1e-10 * eigenvalues.max()
    torch.testing.assert_close(gram.diagonal(), kernel(x, diag=True), rtol=1e-15, atol=0)
    torch.testing.assert_close(gram, gram.mT, rtol=1e-13, atol=1e-14)
    mixing = torch.randn(10, 10, generator=noise, dtype=torch.float64)
    for parameter in (kernel.raw_w_var, kernel.raw_b_var, kernel.raw_last_w_var):
        (gradient,) = torch.autograd.grad((kernel(x).to_dense() * mixing).sum(), parameter)
        values = []
        for step in (1e-5, -1e-5):
            parameter.data += step
            values.append(float((kernel(x).to_dense() * mixing).sum().detach()))
            parameter.data -= step
        assert float(gradient) == pytest.approx(
            (values[0] - values[1]) / 2e-5, rel=1e-6, abs=1e-6
        )


def test_zero_row_without_bias_has_finite_gradients():
    x = torch.cat([X1, torch.zeros(1, 2, dtype=torch.float64)]).requires_grad_()
    for kind in (NNGPKernel, NTKernel):
        kernel = kind(mlp(3), b_var=0.0)
        found = torch.autograd.grad(kernel(x).to_dense().sum(), [x, kernel.raw_w_var])
        assert all(bool(torch.isfinite(g).all()) for g in found)
        assert not kernel.raw_b_var.requires_grad  # a variance of zero is fixed


@pytest.mark.parametrize("name", ["mlp", "mlp_tanh", "conv"])
@pytest.mark.parametrize("columns", [None, 17, 1])
def test_tiles_change_nothing(name, columns, monkeypatch):
    noise = torch.Generator().manual_seed(5)
    x = torch.randn(23, 6, generator=noise, dtype=torch.float64).requires_grad_()
    other = x if columns is None else torch.randn(columns, 6, generator=noise).double()
    mixing = torch.randn(23, len(other), generator=noise, dtype=torch.float64)
    kernel = NNGPKernel(ARCHITECTURES[name])
    results = []
    for entries in (1 << 20, 16 * 6 if name == "conv" else 16):
        monkeypatch.setattr(module, "_TILE_ENTRIES", entries)
        gram = kernel(x, other).to_dense()
        parameters = [x, kernel.raw_w_var, kernel.raw_b_var]
        gradients = torch.autograd.grad((gram * mixing).sum(), parameters)
        results.append((gram.detach(), *gradients))
    for whole, pieces in zip(*results, strict=True):
        torch.testing.assert_close(whole, pieces, rtol=1e-11, atol=1e-11)


points = arrays(float, st.tuples(st.integers(1, 8), st.just(2)), elements=st.floats(-100, 100))


@given(
    x=points.map(torch.from_numpy),
    depth=st.integers(1, 5),
    kind=st.sampled_from(["relu", "erf"]),
)
def test_any_points_give_a_covariance(x, depth, kind):
    gram = NNGPKernel(mlp(depth, kind), b_var=0.0)(x).to_dense().detach()
    assert torch.isfinite(gram).all()
    assert torch.linalg.eigvalsh(gram).min() >= -1e-10 * max(float(gram.max()), 1e-300)


def test_layers_can_have_variances_of_their_own():
    per_layer = NNGPKernel(mlp(2), w_var=[1.0, 2.0, 3.0], b_var=[0.1, 0.2, 0.3])
    by_hand = NNGPKernel(mlp(1), w_var=1.0, b_var=0.1)
    inner = by_hand(X1).to_dense()  # E φφ after the first layer
    k, q = 0.2 + 2.0 * inner, 0.2 + 2.0 * inner.diagonal()
    from probnet.kernels.neural.duals import PiecewiseLinear

    expected = 0.3 + 3.0 * PiecewiseLinear(0.0, 1.0).pair(k, q[:, None], q[None])
    torch.testing.assert_close(per_layer(X1).to_dense(), expected)


def test_input_scales_multiply_features():
    scaled = NNGPKernel(mlp(2), ard_num_dims=2)
    scaled.input_scale = torch.tensor([0.5, 2.0])
    expected = NNGPKernel(mlp(2))(X1 * torch.tensor([0.5, 2.0])).to_dense()
    torch.testing.assert_close(scaled(X1).to_dense(), expected)


def test_images_may_come_flat_or_as_images():
    noise = torch.Generator().manual_seed(6)
    kernel = NNGPKernel(conv(2))
    images = torch.rand(4, 3, 3, 1, generator=noise, dtype=torch.float64)
    assert torch.equal(kernel(images).to_dense(), kernel(images.flatten(1)).to_dense())
    with pytest.raises(ValueError, match=r"a square of one channel.*rows of 7"):
        kernel(torch.ones(2, 7)).to_dense()


def test_diagonal_of_a_cross_covariance():
    kernel, x = NNGPKernel(mlp(2), ard_num_dims=2), X2[:2]
    expected = kernel(X1, x).to_dense().diagonal()
    torch.testing.assert_close(kernel(X1, x, diag=True), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"w_var": -1.0}, "`w_var` must be finite and >= 0; got -1.0"),
        ({"w_var": [1.0, 2.0]}, r"`w_var` must have 3 values, one per layer"),
        ({"b_var": float("nan")}, "`b_var` must be finite"),
        ({"ard_num_dims": 0}, "`ard_num_dims` must be at least 1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        NNGPKernel(mlp(2), **arguments)


def test_bad_architectures_are_refused():
    with pytest.raises(ValueError, match="`depth` must be at least 1"):
        mlp(0)
    with pytest.raises(TypeError, match="`architecture` must be made by mlp"):
        NNGPKernel("mlp")
    with pytest.raises(ValueError, match="`ard_num_dims` is for dense"):
        NNGPKernel(conv(1), ard_num_dims=4)


def test_batches_of_parameters_are_independent():
    w = torch.tensor([1.0, 2.5], dtype=torch.float64)
    batched = NNGPKernel(mlp(2), w_var=w, batch_shape=[2])
    for i in range(2):
        alone = NNGPKernel(mlp(2), w_var=float(w[i]))
        torch.testing.assert_close(batched(X1).to_dense()[i], alone(X1).to_dense())
    again = pickle.loads(pickle.dumps(batched))
    assert np.array_equal(again.w_var.detach(), batched.w_var.detach())
