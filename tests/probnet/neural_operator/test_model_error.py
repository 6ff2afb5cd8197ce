"""The law of the model error: moments by scikit-learn, draws by Gaussian conditioning."""

import pytest
import torch
from sklearn.covariance import LedoitWolf

from probnet.neural_operator.model_error import ModelError

NODES, SENSORS, NOISE_SD = 6, [0, 2, 5], 0.4


def observe(values):
    return values[:, SENSORS]


def errors(num, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(NODES, NODES, generator=generator, dtype=torch.float64)
    return torch.randn(num, NODES, generator=generator, dtype=torch.float64) @ mixing + 0.7


def test_moments_are_ledoit_and_wolfs():
    data = errors(30)
    found = ModelError(data).at(observe)
    expected = LedoitWolf().fit(data[:, SENSORS].numpy())
    torch.testing.assert_close(found.mean, data[:, SENSORS].mean(0))
    torch.testing.assert_close(found.covariance, torch.from_numpy(expected.covariance_))
    assert found.shrinkage == pytest.approx(expected.shrinkage_)


def test_draws_given_the_sensors_are_the_conditional_gaussian():
    data = errors(1000)
    error = ModelError(data).at(observe)
    residual = torch.tensor([0.3, -1.0, 1.5], dtype=torch.float64)
    count = 5000
    generator = torch.Generator().manual_seed(1)
    draws = error.draw(residual.expand(count, -1), NOISE_SD, generator)

    mean, covariance = data.mean(0), data.T.cov(correction=0)
    shrunk = torch.from_numpy(LedoitWolf().fit(data[:, SENSORS].numpy()).covariance_)
    noise = NOISE_SD**2 * torch.eye(3, dtype=torch.float64)
    cross, own = covariance[:, SENSORS], covariance[SENSORS][:, SENSORS]
    shrunk_cross = (1 - error.shrinkage) * cross
    gain = shrunk_cross @ torch.linalg.inv(shrunk + noise)
    expected_mean = mean + gain @ (residual - mean[SENSORS])
    expected = covariance - gain @ shrunk_cross.T
    z = (draws.mean(0) - expected_mean) / (expected.diagonal() / count).sqrt()
    assert float(z.abs().max()) < 4.5
    relative = draws.var(0) / expected.diagonal() - 1
    assert float(relative.abs().max()) < 4.5 * (2 / count) ** 0.5
    # 1000 inputs are shrunk by 1 %, which is nearly the conditional law of the sample moments
    exact = mean + cross @ torch.linalg.inv(own + noise) @ (residual - mean[SENSORS])
    assert float((expected_mean - exact).abs().max()) < 0.1 * float((exact - mean).abs().max())


def test_sensors_where_the_network_is_exact_say_nothing():
    data = errors(50)
    data[:, SENSORS] = 0
    error = ModelError(data).at(observe)
    assert float(error.covariance.abs().max()) == 0
    generator = torch.Generator().manual_seed(0)
    draws = error.draw(torch.zeros(5000, 3, dtype=torch.float64), NOISE_SD, generator)
    ratio = draws[:, 1].std() / data[:, 1].std()
    assert abs(float(ratio) - 1) < 4.5 / 10_000**0.5


def test_bad_arguments():
    with pytest.raises(ValueError, match="`errors` must have shape"):
        ModelError(torch.zeros(1, 5))
    error = ModelError(errors(10)).at(observe)
    with pytest.raises(ValueError, match="`residual` must have shape"):
        error.draw(torch.zeros(2, 4), 0.1, torch.Generator())
