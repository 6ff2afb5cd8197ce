from importlib.resources import files

import pytest

from probnet.datasets import GPTasks
from probnet.neural_process import load_pretrained, train_pretrained


def test_the_shipped_process_predicts_and_is_small():
    file = files("probnet.neural_process.pretrained") / "rbf_1d.probnet"
    assert len(file.read_bytes()) < 5e6
    trained = load_pretrained("rbf_1d")
    found = trained.evaluate(GPTasks(kernel="rbf", seed=0), num_tasks=96, num_functions=20)
    # The law of all y without a context has about -0.87; an untrained network has less.
    assert found.scores["target_pointwise"] > 0.0
    assert not found.collapsed
    assert found.martingale_defect < 0.3


def test_the_recipe_makes_what_is_shipped():
    recipe, shipped = train_pretrained(1, progress=False), load_pretrained()
    assert recipe.network.config() == shipped.network.config()
    assert shipped.diagnostics["tasks_seen"] == 16 * shipped.diagnostics["steps_taken"]
    for name in ("tasks", "tasks_seed", "batch_size", "learning_rate", "seed"):
        assert recipe.diagnostics[name] == shipped.diagnostics[name]
    with pytest.raises(ValueError, match="`name` must be one of"):
        load_pretrained("matern_1d")
