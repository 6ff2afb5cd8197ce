"""The exact predictive of the task streams: the scores that no model can beat."""

import pytest
import torch

from probnet.datasets import GPTasks
from probnet.neural_process import oracle

# nats per point, pointwise and joint, of the published ceilings
PUBLISHED = {"rbf": (1.527, 1.812), "matern": (1.120, 1.386), "periodic": (1.180, 1.482)}
NUM_TASKS, NUM_PAIRED, AT_ONCE = 16_384, 512, 1024


def scores(law, batch):
    counts = batch.mask_t.sum(-1)
    return law.log_prob(batch.yt).sum(1) / counts, law.log_prob(batch.yt, joint=True) / counts


def known(kernel, batch):
    exact = oracle(kernel, **batch.parameters)
    conditioned = exact.condition(batch.xc, batch.yc, mask=batch.mask_c)
    return conditioned.predict(batch.xt, mask=batch.mask_t)


def integrated(kernel, batch):
    exact = oracle(kernel, integrate=True)
    conditioned = exact.condition(batch.xc, batch.yc, mask=batch.mask_c)
    return conditioned.predict(batch.xt, mask=batch.mask_t)


@pytest.mark.benchmark
@pytest.mark.parametrize("kernel", PUBLISHED)
def test_scores_with_known_hyperparameters(kernel):
    tasks = GPTasks(kernel, seed=0).split("test", NUM_TASKS)
    rows, inside, total = [], 0, 0
    for batch in tasks.chunks(AT_ONCE):
        law = known(kernel, batch)
        rows.append(torch.stack(scores(law, batch)))
        z = law.cdf(batch.yt)[batch.mask_t]
        inside += int(((z > 0.025) & (z < 0.975)).sum())
        total += z.numel()
    point, joint = torch.cat(rows, 1)
    coverage = inside / total
    print(
        f"\n{kernel}: target LL {point.mean():.4f} ± {point.std() / NUM_TASKS**0.5:.4f}, "
        f"joint {joint.mean():.4f} ± {joint.std() / NUM_TASKS**0.5:.4f}, "
        f"95 % coverage {coverage:.4f} ({NUM_TASKS} tasks)"
    )
    assert abs(float(point.mean()) - PUBLISHED[kernel][0]) < 0.04
    assert abs(float(joint.mean()) - PUBLISHED[kernel][1]) < 0.03
    assert abs(coverage - 0.95) < 0.005


@pytest.mark.benchmark
@pytest.mark.parametrize("kernel", ["rbf", "matern"])
def test_price_of_unknown_hyperparameters(kernel):
    """Paired on the same tasks."""
    tasks = GPTasks(kernel, seed=1).split("test", NUM_PAIRED)
    gaps = []
    for batch in tasks.chunks(64):
        pairs = zip(
            scores(integrated(kernel, batch), batch),
            scores(known(kernel, batch), batch),
            strict=True,
        )
        gaps.append(torch.stack([a - b for a, b in pairs]))
    point, joint = torch.cat(gaps, 1)
    print(
        f"\n{kernel}: integrated minus known, target LL {point.mean():.4f} ± "
        f"{point.std() / NUM_PAIRED**0.5:.4f}, joint {joint.mean():.4f} ± "
        f"{joint.std() / NUM_PAIRED**0.5:.4f} ({NUM_PAIRED} tasks)"
    )
    assert -0.08 < float(point.mean()) < -0.02
    assert -0.05 < float(joint.mean()) < -0.01
