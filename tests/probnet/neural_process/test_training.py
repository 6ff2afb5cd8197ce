import signal

import pytest
import torch

from probnet.datasets import GPTasks, TaskBatch, TaskStream
from probnet.neural_process import CNP, MPNP, NP
from probnet.neural_process.options import TrainingOptions


class Interrupted(TaskStream):
    """RBF tasks; pressing Ctrl-C, or giving something bad, at one of the calls."""

    x_dim, y_dim, max_points, x_range, seed = 1, 1, 50, (-2.0, 2.0), 0

    def __init__(self, at, bad=None):
        self.inner, self.at, self.bad, self.calls = GPTasks(seed=0), at, bad, 0

    def batch(self, batch_size, generator):
        self.calls += 1
        tasks = self.inner.batch(batch_size, generator)
        if self.calls == self.at and self.bad is None:
            signal.raise_signal(signal.SIGINT)
        if self.calls == self.at and self.bad is not None:
            tasks.yc[0, 0] = self.bad
        return tasks


def train(model=None, tasks=None, **options):
    options = {"num_steps": 12, "batch_size": 4, "seed": 0, "num_functions": 2, **options}
    return (model or MPNP(width=16, num_pseudo=4)).fit(tasks or GPTasks(seed=0), **options)


def equal(first, second):
    pairs = zip(first.network.parameters(), second.network.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_loss_falls_and_the_model_is_not_changed():
    model = CNP(width=32)
    before = [p.clone() for p in model.parameters()]
    trained = train(model, num_steps=150, batch_size=16)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    curve = trained.loss_curve
    assert curve[-30:].mean() < curve[:10].mean() - 0.2
    assert trained.diagnostics["tasks_seen"] == 2400
    assert not any(p.requires_grad for p in trained.network.parameters())


def test_seeds_decide_everything_and_progress_nothing(capsys):
    before = torch.get_rng_state()
    first, again = train(progress=True), train(progress=False)
    assert torch.equal(before, torch.get_rng_state())
    assert equal(first, again)
    assert torch.equal(first.loss_curve, again.loss_curve)
    assert not equal(first, train(seed=1))
    assert not equal(first, train(tasks=GPTasks(seed=1)))
    assert capsys.readouterr().err == ""


def test_resumed_training_is_bit_equal(tmp_path):
    whole = train()
    partial = train(tasks=Interrupted(5), checkpoint=tmp_path / "run", checkpoint_every=2)
    assert partial.diagnostics["interrupted"]
    assert partial.diagnostics["tasks_seen"] == 20
    assert not equal(whole, partial)
    for _ in range(2):  # the second time there is nothing left to do
        resumed = train(
            tasks=Interrupted(0), checkpoint=tmp_path / "run", resume=True, checkpoint_every=2
        )
        assert equal(whole, resumed)
        assert torch.equal(whole.loss_curve, resumed.loss_curve)
        assert resumed.diagnostics["tasks_seen"] == 48


def test_a_checkpoint_is_not_overwritten_or_mixed_up(tmp_path):
    train(checkpoint=tmp_path / "run")
    with pytest.raises(FileExistsError, match="`resume=True`"):
        train(checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match="batch_size"):
        train(checkpoint=tmp_path / "run", resume=True, batch_size=5)
    with pytest.raises(ValueError, match="needs `checkpoint`"):
        train(resume=True)


def test_an_interrupt_returns_what_there_is():
    trained = train(tasks=Interrupted(3), num_steps=1000)
    assert trained.diagnostics["steps_taken"] == 3
    posterior = trained.condition(torch.zeros(2, 1), torch.ones(2, 1))
    assert posterior.predict(torch.zeros(4, 1)).mean.isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), 1e30])
def test_a_loss_that_is_not_finite_is_an_error(bad):
    with pytest.raises(FloatingPointError, match="at step 3 of 12"):
        train(tasks=Interrupted(3, bad))


def test_one_data_set_is_no_stream():
    batch = GPTasks(seed=0).split("train", 3)
    with pytest.raises(TypeError, match=r"one fixed batch of tasks.*many small data sets"):
        train(tasks=batch)
    with pytest.raises(TypeError, match="must be a stream"):
        train(tasks=(torch.zeros(5, 1), torch.zeros(5, 1)))


def test_bad_arguments_are_rejected():
    with pytest.raises(ValueError, match="x_dim=2"):
        train(tasks=GPTasks(x_dim=2))
    with pytest.raises(TypeError, match="Did you mean `learning_rate`"):
        train(learning_rates=0.1)
    with pytest.raises(ValueError, match="`num_steps`"):
        train(num_steps=0)
    with pytest.raises(ValueError, match="`num_functions`"):
        train(num_functions=0)
    with pytest.raises(ValueError, match="`method`"):
        train(method="sgd")


def test_rate_rises_linearly_and_falls_as_a_cosine():
    options = TrainingOptions(learning_rate=0.4, warmup_fraction=0.02)
    rates = [options.rate(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(0.02, rel=1e-4)
    assert max(rates) == pytest.approx(0.4, rel=2e-3)
    assert rates.index(max(rates)) == 19
    assert rates[500] == pytest.approx(0.2)
    assert 0 < rates[-1] < 1e-5


def test_stages_of_functions_and_a_validation_loss():
    valid = GPTasks(seed=0).split("valid", 70)
    assert isinstance(valid, TaskBatch)
    trained = train(NP(width=8), num_functions=(1, 2, 4), valid=valid)
    assert trained.diagnostics["num_functions"] == [1, 2, 4]
    assert trained.diagnostics["valid_loss"] == pytest.approx(
        trained.diagnostics["loss"], abs=1.0
    )


def test_bfloat16_steps_learn_alike():
    plain, halved = train(num_steps=20), train(num_steps=20, bfloat16=True)
    assert not torch.equal(plain.loss_curve, halved.loss_curve)
    torch.testing.assert_close(plain.loss_curve, halved.loss_curve, rtol=0.1, atol=0.1)
