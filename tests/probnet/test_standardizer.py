"""Standardisation, against scikit-learn and against its own inverse."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.preprocessing import StandardScaler

from probnet import Standardizer

tables = arrays(
    float,
    st.tuples(st.integers(1, 8), st.integers(1, 4)),
    elements=st.floats(-1e3, 1e3, width=16),
)


@given(table=tables)
def test_it_agrees_with_scikit_learn(table):
    ours = Standardizer.fit(table)
    theirs = StandardScaler().fit(table)
    np.testing.assert_allclose(ours.scale, theirs.scale_, rtol=1e-9)
    np.testing.assert_allclose(ours.transform(table), theirs.transform(table), atol=1e-8)


@given(table=tables)
def test_inverse_undoes_transform_and_sd_scales(table):
    standardizer = Standardizer.fit(table)
    z = standardizer.transform(table)
    np.testing.assert_allclose(standardizer.inverse(z), table, atol=1e-8)
    np.testing.assert_allclose(
        standardizer.inverse_sd(torch.ones_like(z)),
        standardizer.inverse(z + 1) - standardizer.inverse(z),
        rtol=1e-9,
        atol=1e-9,
    )


def test_a_constant_column_becomes_zero_and_keeps_later_deviations():
    table = torch.tensor([[0.1, 1.0], [0.1, 2.0], [0.1, 3.0]])
    standardizer = Standardizer.fit(table)
    assert standardizer.scale[0] == 1
    assert standardizer.transform(table)[:, 0].abs().max() < 1e-6
    assert float(standardizer.transform(torch.tensor([[2.1, 0.0]]))[0, 0]) == pytest.approx(2)


def test_a_vector_has_one_mean_and_any_shape_is_transformed():
    standardizer = Standardizer.fit([1.0, 3.0])
    assert standardizer.mean.shape == ()
    draws = torch.randn(5, 4, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(standardizer.inverse(draws), 2 + draws)


def test_a_float32_column_far_from_zero_keeps_its_digits():
    """In float32 the subtraction itself would be exact, the mean of the column would not."""
    table = (1e7 + torch.arange(4.0))[:, None]
    z = Standardizer.fit(table).transform(table)
    assert z.dtype == torch.float32
    np.testing.assert_allclose(z[:, 0], (np.arange(4) - 1.5) / np.std(np.arange(4)), rtol=1e-6)


def test_json_round_trip_is_exact():
    table = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for values in (table, table[:, 0]):
        before = Standardizer.fit(values)
        after = Standardizer.from_dict(json.loads(json.dumps(before.to_dict())))
        assert torch.equal(before.mean, after.mean)
        assert torch.equal(before.scale, after.scale)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.ones(2, 2, 2), "`values` must have shape"),
        (torch.ones(0, 2), "`values` must have shape"),
        (torch.tensor([1.0, np.nan]), "`values` holds 1 non-finite"),
    ],
)
def test_bad_training_rows_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Standardizer.fit(values)


def test_another_number_of_columns_is_refused():
    standardizer = Standardizer.fit(torch.ones(3, 2))
    for method in (standardizer.transform, standardizer.inverse, standardizer.inverse_sd):
        with pytest.raises(ValueError, match="2 columns"):
            method(torch.ones(3, 4))


def test_a_map_that_cannot_be_inverted_is_refused():
    with pytest.raises(ValueError, match="`scale` must be > 0"):
        Standardizer(torch.zeros(2), torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="`scale` must have shape"):
        Standardizer(torch.zeros(2), torch.ones(3))
