"""The recipe of the operator that comes with the package, run small."""

import pytest

import probnet
from probnet.datasets.fields import LevelSetGRF
from probnet.neural_operator.pretrained import load_pretrained, train_pretrained

SIZE_LIMIT = 5_000_000  # bytes


@pytest.mark.slow
def test_recipe_makes_a_file_that_is_small_and_loads(tmp_path):
    trained = train_pretrained(2, batch_size=4, num_validation=200, progress=False)
    path = trained.save(tmp_path / "operator.probnet")
    # Its 10,000 steps of the bound take 8 bytes each.
    assert path.stat().st_size + 8 * 10_000 < SIZE_LIMIT
    loaded = probnet.load(path)
    media = LevelSetGRF(tau=3.0).sample(2, seed=0)
    assert loaded.predict(media).mean.equal(trained.predict(media).mean)
    assert loaded.prior is not None


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'darcy_two_phase'"):
        load_pretrained("darcy_two_phases")
