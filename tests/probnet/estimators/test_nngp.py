"""scikit-learn's own checks, a pipeline, and agreement with the models behind."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from inference.rng import scoped_seed
from probnet.estimators import NNGPClassifier, NNGPRegressor

torch.set_num_threads(1)


@pytest.mark.filterwarnings("ignore:the search for hyper-parameters stopped")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [NNGPRegressor(depth=1, ard=False, max_evaluations=15), NNGPClassifier(depth=1)]
)
def test_scikit_learn_contract(estimator, check):
    with scoped_seed(0):  # some checks draw from NumPy's global generator
        check(estimator)


def test_regressor_predicts_in_the_units_of_the_data():
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (80, 2)) * [1, 100] + [5, 1000]
    y = 1000 + 50 * np.sin(2 * (x[:, 0] - 5))
    regressor = make_pipeline(StandardScaler(), NNGPRegressor(random_state=1)).fit(
        x[:60], y[:60]
    )
    mean, sd = regressor[-1].predict(regressor[0].transform(x[60:]), return_std=True)
    assert regressor.score(x[60:], y[60:]) > 0.95
    assert np.mean(np.abs(y[60:] - mean) < 2 * sd) > 0.8
    draws = regressor[-1].sample_y(regressor[0].transform(x[60:]), 3, random_state=0)
    assert draws.shape == (20, 3)


def test_several_outputs_keep_their_shape():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 2))
    y = np.stack([x[:, 0], 5 + x[:, 1], x.sum(1)], axis=1) + 0.05 * rng.normal(size=(30, 3))
    regressor = NNGPRegressor(depth=1).fit(x, y)
    mean, sd = regressor.predict(x[:4], return_std=True)
    assert mean.shape == sd.shape == (4, 3)
    assert regressor.sample_y(x[:4], 7).shape == (4, 3, 7)
    np.testing.assert_allclose(mean, y[:4], atol=0.3)


def test_classifier_keeps_labels_of_any_type():
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    classifier = NNGPClassifier().fit(x[::2], names[::2])
    assert classifier.score(x[1::2], names[1::2]) > 0.9
    np.testing.assert_allclose(classifier.predict_proba(x).sum(1), 1)
