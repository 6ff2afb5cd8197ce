"""scikit-learn's own checks, and predictions in the units and labels of the data."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.utils.estimator_checks import parametrize_with_checks

from inference.rng import scoped_seed
from probnet.estimators import BNNClassifier, BNNRegressor

torch.set_num_threads(1)
QUICK = {
    "hidden": (10,),
    "measurement_size": 10,
    "num_chains": 2,
    "num_samples": 4,
    "thin": 10,
    "num_warmup": 300,
}
# chains as short as these need not agree, nor ten points represent a target
pytestmark = [
    pytest.mark.filterwarnings("ignore:the chains:inference.InferenceWarning"),
    pytest.mark.filterwarnings("ignore:this architecture:inference.InferenceWarning"),
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [BNNRegressor(**QUICK, match=False), BNNClassifier(**QUICK, match=False)]
)
def test_scikit_learn_contract(estimator, check):
    with scoped_seed(0):  # some checks draw from NumPy's global generator
        check(estimator)


def test_regressor_predicts_in_the_units_of_the_data():
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (80, 2)) * [1, 100] + [5, 1000]
    y = 1000 + 50 * np.sin(2 * (x[:, 0] - 5))
    regressor = BNNRegressor(**{**QUICK, "num_warmup": 1500, "thin": 50, "hidden": (30,)})
    regressor.fit(x[:60], y[:60])
    mean, sd = regressor.predict(x[60:], return_std=True)
    assert regressor.score(x[60:], y[60:]) > 0.4  # predicting the mean: at most 0
    assert np.mean(np.abs(y[60:] - mean) < 2 * sd) > 0.8
    assert regressor.sample_y(x[60:], 3).shape == (20, 3)
    assert regressor.posterior_.prior.stds["w1"] != 1.0


def test_classifier_keeps_labels_of_any_type():
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    classifier = BNNClassifier(**{**QUICK, "num_warmup": 1000}).fit(x[::2], names[::2])
    assert classifier.score(x[1::2], names[1::2]) > 0.85
    np.testing.assert_allclose(classifier.predict_proba(x).sum(1), 1)
