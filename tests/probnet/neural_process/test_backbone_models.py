"""The transformer and the convolutional model: symmetries, padding, extrapolation."""

import pytest
import torch

import inference
from probnet import load
from probnet.datasets import GPTasks
from probnet.neural_process import TNP, ConvCNP, oracle

SIZES = {
    "TNP": (TNP, {"width": 16, "num_layers": 2, "num_heads": 4}),
    "TNP-relative": (TNP, {"width": 16, "num_layers": 2, "num_heads": 4, "relative": True}),
    "ConvCNP": (ConvCNP, {"width": 8, "num_levels": 3, "points_per_unit": 16.0}),
}


@pytest.fixture
def trained(pretend):
    def make(name, **options):
        kind, own = SIZES[name]
        model = kind(**{**own, **options})
        model.initialise(1)
        return pretend(model)

    return make


def context(num_tasks=3, n=8, y_dim=1):
    stream = torch.Generator().manual_seed(5)
    xc = torch.rand(num_tasks, n, 1, generator=stream) * 4 - 2
    yc = torch.randn(num_tasks, n, y_dim, generator=stream)
    mask = torch.arange(n) < torch.tensor([n, 5, 2])[:num_tasks, None]
    return xc, yc, mask, torch.linspace(-2, 2, 9)[:, None]


def moments(posterior, xt):
    law = posterior.predict(xt)
    return torch.stack([law.mean, law.stddev])


@pytest.mark.parametrize("name", SIZES)
def test_order_of_context_and_targets(name, trained):
    model = trained(name)
    xc, yc, mask, xt = context()
    stream = torch.Generator().manual_seed(0)
    order, targets = torch.randperm(8, generator=stream), torch.randperm(9, generator=stream)
    moved = model.condition(xc[:, order], yc[:, order], mask=mask[:, order])
    reference = moments(model.condition(xc, yc, mask=mask), xt)
    assert (moments(moved, xt[targets]) - reference[:, :, targets]).abs().max() <= 1e-5


@pytest.mark.parametrize("poison", [float("nan"), 1e30])
@pytest.mark.parametrize("name", SIZES)
def test_padding_does_not_matter(name, poison, trained):
    model = trained(name, y_dim=2)
    xc, yc, mask, xt = context(y_dim=2)
    inside = mask[..., None]
    poisoned = model.condition(
        torch.where(inside, xc, poison), torch.where(inside, yc, poison), mask=mask
    )
    reference = moments(model.condition(xc, yc, mask=mask), xt)
    assert torch.equal(moments(poisoned, xt), reference)


@pytest.mark.parametrize("name", ["TNP", "TNP-relative"])
def test_targets_do_not_see_each_other(name, trained):
    xc, yc, mask, xt = context()
    posterior = trained(name).condition(xc, yc, mask=mask)
    one = moments(posterior, xt[3:4])
    assert (one[:, :, 0] - moments(posterior, xt)[:, :, 3]).abs().max() <= 1e-5


@pytest.mark.parametrize("name", SIZES)
def test_extension_is_encoding_all_at_once(name, trained):
    network = trained(name).network
    xc, yc, _, xt = context()
    mask = torch.ones(3, 8, dtype=torch.bool)
    part = network.encode(xc[:, :5], yc[:, :5], mask[:, :5])
    whole = network.encode(xc, yc, mask)
    points = xt.expand(3, 9, 1)
    difference = network.decode(
        network.extend(part, xc[:, 5:], yc[:, 5:]), points
    ) - network.decode(whole, points)
    assert difference.abs().max() <= 1e-5


@pytest.mark.parametrize(("name", "holds"), [("TNP-relative", 1), ("ConvCNP", 1), ("TNP", 0)])
def test_translation(name, holds, trained):
    """No warning outside the training range, and the same prediction, 37.3 to the right."""
    model = trained(name)
    xc, yc, mask, xt = context()
    here = moments(model.condition(xc, yc, mask=mask), xt)
    if not holds:
        with pytest.warns(inference.InferenceWarning, match="leave the training range"):
            there = model.condition(xc + 37.3, yc, mask=mask)
        assert (moments(there, xt + 37.3) - here).abs().max() > 1e-2
        return
    there = model.condition(xc + 37.3, yc, mask=mask)
    # float32 holds x + 37.3 to 4e-6 only, 1e-4 of the smallest lengthscale
    assert (moments(there, xt + 37.3) - here).abs().max() <= 1e-3


@pytest.mark.parametrize("name", SIZES)
def test_an_empty_context_has_an_answer(name, trained):
    posterior = trained(name).condition(torch.zeros(0, 1), torch.zeros(0, 1), allow_empty=True)
    assert torch.isfinite(moments(posterior, torch.linspace(-1, 1, 4)[:, None])).all()


def test_a_file_keeps_them(trained, tmp_path):
    xc, yc, mask, xt = context()
    for name in SIZES:
        model = trained(name)
        again = load(model.save(tmp_path / "model"))
        a, b = (moments(m.condition(xc, yc, mask=mask), xt) for m in (model, again))
        assert torch.equal(a, b)


@pytest.mark.slow
def test_a_convolutional_model_learns_and_extrapolates():
    """2,500 tasks: it beats the prior in the training range and, shifted by 30, as well."""
    tasks = GPTasks(lengthscale=(0.5, 0.5), amplitude=(1.0, 1.0), num_context=(8, 20), seed=0)
    model = ConvCNP(width=16, num_levels=3, points_per_unit=16.0)
    trained = model.fit(
        tasks, num_steps=300, batch_size=8, learning_rate=5e-3, seed=0, progress=False
    )
    test = tasks.split("test", 32)
    scores = []
    for shift in (0.0, 30.0):
        law = trained.condition(test.xc + shift, test.yc, mask=test.mask_c).predict(
            test.xt + shift
        )
        logs = law.log_prob(test.yt.double())
        scores.append(float(logs[test.mask_t].mean()))
    exact = oracle("rbf", lengthscale=0.5, amplitude=1.0)
    law = exact.condition(test.xc, test.yc, mask=test.mask_c).predict(test.xt)
    ceiling = float(law.log_prob(test.yt)[test.mask_t].mean())
    prior = float(torch.distributions.Normal(0, 1).log_prob(test.yt[test.mask_t]).mean())
    assert prior + 0.3 < scores[0] < ceiling
    assert abs(scores[1] - scores[0]) < 0.02


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`x_dim` must be 1"):
        ConvCNP(x_dim=2)
    with pytest.raises(ValueError, match="`num_heads` must divide"):
        TNP(width=10, num_heads=4)
