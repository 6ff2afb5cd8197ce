"""Images, simulated populations, and the lynx and the hare."""

import math

import pytest
import torch
from sklearn.datasets import load_digits

from probnet.datasets import (
    HareLynxTasks,
    ImageTasks,
    PredatorPreyTasks,
    load_hare_lynx,
    simulate_predator_prey,
)


def test_pixels_are_those_of_the_digits():
    """Context and targets of a test task, put together, are one of scikit-learn's images."""
    tasks = ImageTasks.digits(seed=1)
    batch = tasks.split("test", 6)
    pictures = tasks.picture(batch)[..., 0]
    known = torch.from_numpy(load_digits().images).float() / 16 - 0.5
    for picture in pictures:
        assert (known == picture).flatten(1).all(1).any()
    assert (batch.mask.sum(1) == 64).all()
    assert math.isclose(float(batch.x.max()), 1 - 1 / 8)


def test_images_of_the_splits_are_disjoint():
    tasks = ImageTasks.digits(seed=1)
    rows = torch.cat(list(tasks.rows.values()))
    assert len(rows) == len(rows.unique()) == 1797
    again = ImageTasks.digits(seed=1).split("valid", 5)
    assert torch.equal(again.yc, tasks.split("valid", 5).yc)


def test_colours_and_shapes():
    images = torch.rand((20, 6, 4, 3), generator=torch.Generator().manual_seed(0))
    tasks = ImageTasks(images, num_context=(3, 8))
    batch = tasks.split("valid", 3)
    assert tasks.picture(batch).shape == (3, 6, 4, 3)
    whole = tasks.picture(batch)
    assert (whole[:, None] == images[None] - 0.5).flatten(2).all(2).any(1).all()
    train = tasks.batch(50, tasks.generator("train"))
    assert int(train.mask.sum(1).max()) < 24
    with pytest.raises(ValueError, match="`images` must have values from 0"):
        ImageTasks(images * 255)
    with pytest.raises(ValueError, match="`images` must have shape"):
        ImageTasks(images[0])


def test_one_event_follows_the_rates():
    """Of the first event: the kind by its rate, the time exponential; 4 standard errors."""
    rng = torch.Generator().manual_seed(1)
    num = 20_000
    path = simulate_predator_prey(num, rng, num_events=2)
    change = (path.populations[:, 1] - path.populations[:, 0]).abs().sum(1)
    assert (change == 1).all()
    x, y = path.populations[:, 0].unbind(1)
    rates = torch.stack([0.01 * x * y, 0.5 * x, y, 0.01 * x * y], 1)
    share = rates / rates.sum(1, keepdim=True)
    step = path.populations[:, 1] - path.populations[:, 0]
    kinds = torch.stack(
        [step[:, 0] == 1, step[:, 0] == -1, step[:, 1] == 1, step[:, 1] == -1], 1
    )
    error = (kinds.double() - share).mean(0).abs()
    assert (error < 4 * 0.5 / num**0.5).all()
    scaled = (path.time[:, 1] - path.time[:, 0]) * rates.sum(1)
    assert abs(float(scaled.mean()) - 1) < 4 / num**0.5
    assert abs(float(scaled.var()) - 1) < 4 * 8**0.5 / num**0.5


def test_growth_without_the_other_kind_is_a_birth_process():
    """Without predation, prey after time t have mean Y_0 e^t: compare with waiting times."""
    rng = torch.Generator().manual_seed(2)
    path = simulate_predator_prey(400, rng, num_events=100, birth=0.0, death=0.0, predation=0.0)
    start = path.populations[:, 0, 1] - 1
    expected = sum(1 / (start + k) for k in range(100))  # of the sum of exponential waits
    error = path.time[:, -1] - expected
    assert abs(float(error.mean())) < 4 * float(error.std()) / 400**0.5
    assert (path.populations[:, -1, 1] == start + 100).all()
    assert (path.length == 100).all()


def test_extinction_ends_a_simulation():
    rng = torch.Generator().manual_seed(3)
    path = simulate_predator_prey(8, rng, num_events=400, birth=0.0, prey_birth=0.0)
    assert (path.length < 400).all()
    last = path.populations[torch.arange(8), path.length - 1]
    assert (last.amin(1) == 0).all()
    assert torch.equal(path.populations[:, -1], last)


def test_populations_are_standardised_by_their_contexts():
    tasks = PredatorPreyTasks(num_simulations=24, num_events=3000, seed=4)
    batch = tasks.split("test", 8)
    for i in range(8):
        context = batch.yc[i][batch.mask_c[i]]
        torch.testing.assert_close(context.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
        torch.testing.assert_close(
            context.std(0, correction=0), torch.ones(2), atol=1e-3, rtol=0
        )
    assert (batch.yt[~batch.mask_t] == 0).all()
    assert int(batch.mask_c.sum(1).min()) >= 15
    again = PredatorPreyTasks(num_simulations=24, num_events=3000, seed=4).split("test", 8)
    assert torch.equal(again.yt, batch.yt)


def test_lynx_and_hare():
    years, populations = load_hare_lynx()
    assert years.shape == (21, 1)
    assert populations[3].tolist() == [35.2, 77.4]  # 1903
    assert populations[-1].tolist() == [8.6, 24.7]  # 1920
    tasks = HareLynxTasks(num_context=(7, 12), seed=5)
    batch = tasks.split("test", 30)
    assert (batch.mask.sum(1) == 21).all()
    raw = years[:, 0], populations[:, 0]
    for i in range(30):
        c, t = batch.mask_c[i], batch.mask_t[i]
        x, y = (
            torch.cat([batch.xc[i][c], batch.xt[i][t]]),
            torch.cat([batch.yc[i][c], batch.yt[i][t]]),
        )
        ours = torch.stack([x[:, 0], y[:, 0]]).double()[:, x[:, 0].argsort()]
        for got, series in zip(ours, raw, strict=True):  # equal up to location and scale
            slope = (got - got.mean()) @ (series - series.mean()) / series.var() / 20
            torch.testing.assert_close(
                got - got.mean(), slope * (series - series.mean()), rtol=0, atol=1e-4
            )
    with pytest.raises(ValueError, match="`num_context` must leave one"):
        HareLynxTasks(num_context=(7, 21))
