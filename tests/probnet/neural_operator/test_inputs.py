"""Likelihoods of inputs: laws, decoding, what they refuse."""

import pytest
import torch

from probnet.neural_operator import GaussianInput, TwoPhase
from probnet.neural_operator.inputs import check_inputs, input_likelihood_from_dict

FIELD = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(2, 6)


def test_two_phases_are_scored_by_cross_entropy_at_their_temperature():
    media = torch.where(torch.arange(12).reshape(2, 6) % 3 == 0, 10.0, 5.0).double()
    phases = (media == 10.0).double()
    for form, scale in (("level_set", 0.25), ("bernoulli", 1.0)):
        law = TwoPhase(5.0, 10.0, form=form)
        expected = -torch.nn.functional.binary_cross_entropy_with_logits(
            FIELD / scale, phases, reduction="none"
        ).sum(-1)
        torch.testing.assert_close(law.log_prob(FIELD, media, temperature=0.25), expected)


def test_level_sets_decode_to_phases_and_the_paper_form_to_means():
    decoded = TwoPhase(5.0, 10.0).decode(FIELD)
    assert torch.equal(decoded, torch.where(FIELD > 0, 10.0, 5.0).double())
    mean = TwoPhase(5.0, 10.0, form="bernoulli").decode(FIELD)
    torch.testing.assert_close(mean, 5 + 5 * torch.sigmoid(FIELD))
    swapped = TwoPhase(10.0, 5.0).decode(FIELD)
    assert torch.equal(swapped, torch.where(FIELD > 0, 5.0, 10.0).double())


def test_continuous_inputs_are_gaussian_or_log_gaussian():
    inputs = torch.rand(2, 6, generator=torch.Generator().manual_seed(0)).double() + 0.5
    plain, positive = GaussianInput(0.1), GaussianInput(0.1, positive=True)
    normal = torch.distributions.Normal(FIELD, 0.1)
    torch.testing.assert_close(plain.log_prob(FIELD, inputs), normal.log_prob(inputs).sum(-1))
    torch.testing.assert_close(
        positive.log_prob(FIELD, inputs), normal.log_prob(inputs.log()).sum(-1)
    )
    assert (positive.decode(FIELD) > 0).all()
    points = torch.tensor([[0.0], [0.5], [1.0]])
    assert GaussianInput(zero_at_ends=True).envelope(points).tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    "law", [TwoPhase(2.0, 7.0, form="bernoulli"), GaussianInput(0.2, positive=True)]
)
def test_descriptions_make_equal_likelihoods(law):
    assert input_likelihood_from_dict(law.to_dict()) == law


def test_inputs_come_as_grids_or_rows():
    grid = torch.full((3, 2, 4, 4), 5.0)
    rows, batch = check_inputs("x", grid, (4, 4), TwoPhase(5.0, 10.0))
    assert (rows.shape, tuple(batch), rows.dtype) == ((6, 16), (3, 2), torch.float64)
    same, _ = check_inputs("x", grid.reshape(3, 2, 16), (4, 4), TwoPhase(5.0, 10.0))
    assert torch.equal(rows, same)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.full((2, 3, 3), 5.0), "nodes of the fitted input grid"),
        (
            torch.full((2, 16), 5.00001, dtype=torch.float64),
            "`x` must hold the values 5 and 10",
        ),
        (torch.full((2, 16), torch.nan), "non-finite"),
        (torch.zeros(0, 16), "at least one input"),
    ],
)
def test_impossible_inputs_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        check_inputs("x", values, (4, 4), TwoPhase(5.0, 10.0))


def test_bad_likelihoods_are_refused():
    with pytest.raises(ValueError, match="must differ"):
        TwoPhase(5.0, 5.0)
    with pytest.raises(ValueError, match="`form` must be one of"):
        TwoPhase(5.0, 10.0, form="levelset")
    with pytest.raises(ValueError, match="choose one of them"):
        GaussianInput(positive=True, zero_at_ends=True)
    with pytest.raises(ValueError, match="must be > 0 everywhere"):
        GaussianInput(positive=True).check("x", torch.zeros(2, 2))
