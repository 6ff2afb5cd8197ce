"""What neural processes learn on RBF tasks, beside the exact Bayes predictive.

Every model is trained on the same stream with the same number of tasks seen, and scored on the
same test tasks; a comparison is a mean over tasks of differences, with its standard error over
tasks (n and m are drawn per task, so that tasks are independent).

    PROBNET_NP_TASKS      tasks seen in training, by pooled models (default 3,200)
    PROBNET_NP_ATTENTIVE  by attentive and convolutional ones (default: a third of it)
    PROBNET_NP_TEST       test tasks (default 1,024)
    PROBNET_NP_FOLDER     where trained models, checkpoints and scores are kept; what is there
                          is not trained again, and an interrupted training goes on
    PROBNET_NP_MODELS     names of `MODELS`, separated by commas (default: all)

`pytest -m benchmark -k "test_training and MPNP"` trains some models only; `test_table` trains
what is missing and prints the table.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import probnet
from probnet.datasets import GPTasks
from probnet.neural_process import (
    CANP,
    CNP,
    MPANP,
    MPNP,
    NP,
    TNP,
    Autoregressive,
    ConvCNP,
    oracle,
)

BATCH = 16
TASKS = int(os.environ.get("PROBNET_NP_TASKS", "3200"))
ATTENTIVE = int(os.environ.get("PROBNET_NP_ATTENTIVE", TASKS // 3))
NUM_TEST = int(os.environ.get("PROBNET_NP_TEST", "1024"))
FUNCTION_TASKS = 64
KINDS = {"CNP": CNP, "NP": NP, "MPNP": MPNP, "CANP": CANP, "MPANP": MPANP}
KINDS |= {"TNP": TNP, "ConvCNP": ConvCNP}
FEWER = {"CANP", "MPANP", "TNP", "ConvCNP"}
FLOORS = {"free": 1e-3, "floor": 0.1}
MODELS = [f"{kind}-{floor}" for kind in KINDS for floor in FLOORS]
CHOSEN = [n for n in os.environ.get("PROBNET_NP_MODELS", ",".join(MODELS)).split(",") if n]


def stream():
    return GPTasks(kernel="rbf", seed=0)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    given = os.environ.get("PROBNET_NP_FOLDER")
    path = Path(given) if given else tmp_path_factory.mktemp("neural_process")
    path.mkdir(parents=True, exist_ok=True)
    return path


def trained(name, folder):
    """The trained model, from the folder if it is there."""
    kind, floor = name.split("-")
    seen = ATTENTIVE if kind in FEWER else TASKS
    file = folder / f"{name}-{seen}.probnet"
    if not file.is_file():
        result = KINDS[kind](min_scale=FLOORS[floor]).fit(
            stream(),
            num_steps=seen // BATCH,
            batch_size=BATCH,
            seed=0,
            checkpoint=folder / f"{name}-{seen}.run",
            resume=True,
            checkpoint_every=500,
        )
        if result.diagnostics["interrupted"]:
            raise KeyboardInterrupt
        result.save(file)
    return probnet.load(file)


def exact(folder):
    """Integrated oracle on the test tasks: pointwise and joint, each `(B,)`."""
    file = folder / f"oracle-{NUM_TEST}.npy"
    if file.is_file():
        return torch.from_numpy(np.load(file))
    bayes, scores = oracle("rbf", integrate=True), []
    for chunk in stream().split("test", NUM_TEST).to(torch.float64).chunks(32):
        law = bayes.condition(chunk.xc, chunk.yc, mask=chunk.mask_c).predict(
            chunk.xt, mask=chunk.mask_t
        )
        count = chunk.mask_t.sum(-1)
        pointwise = law.log_prob(chunk.yt).sum(-1) / count
        scores.append(torch.stack([pointwise, law.log_prob(chunk.yt, joint=True) / count]))
    found = torch.cat(scores, dim=1)
    np.save(file, found.numpy())
    return found


def autoregressive(model, tasks):
    """Joint log-likelihood per target, factored point after point: `(B,)`, or `None`."""
    if not model.network.conditional:
        return None
    scores = []
    for chunk in tasks.to(torch.float64).chunks(32):
        posterior = model.condition(chunk.xc, chunk.yc, mask=chunk.mask_c)
        joint = Autoregressive(posterior).log_prob(
            chunk.xt, chunk.yt, mask=chunk.mask_t, num_orders=2
        )
        scores.append(joint / chunk.mask_t.sum(-1))
    return torch.cat(scores)


def distance(model):
    """W₂ of the functions from the exact ones, and that of exact ones, as text."""
    if not model.network.sampled:
        return "-"
    exact = oracle("rbf", integrate=True)
    scores = model.evaluate(stream(), num_tasks=FUNCTION_TASKS, oracle=exact).scores
    return f"{scores['function_w2']:.4f} ({scores['function_w2_exact']:.4f})"


def paired(difference):
    """Mean over tasks and its standard error, as text and as numbers."""
    mean, error = float(difference.mean()), float(difference.std()) / len(difference) ** 0.5
    return f"{mean:+.3f} ± {error:.3f}", mean, error


@pytest.mark.benchmark
@pytest.mark.parametrize("name", CHOSEN)
def test_training(name, folder):
    result = trained(name, folder)
    print(f"\n{name}: {result.diagnostics['tasks_seen']} tasks seen", end=" ")
    print(f"final loss {result.diagnostics['loss']:.3f}")
    assert torch.isfinite(result.loss_curve).all()


@pytest.mark.benchmark
def test_table(folder, write_table):
    tasks = stream().split("test", NUM_TEST)
    bayes = exact(folder)
    models = {}
    for name in CHOSEN:
        models[name] = trained(name, folder)
        models[f"{name}, calibrated"] = models[name].calibrate(stream())
    found = {name: model.evaluate(tasks) for name, model in models.items()}
    small, large = (tasks.mask_c.sum(-1) <= 8), (tasks.mask_c.sum(-1) >= 30)
    rows = [["integrated oracle", "", f"{bayes[0].mean():.3f}", f"{bayes[1].mean():.3f}", ""]]
    rows[0] += [""] * (len(HEADER) - len(rows[0]))
    for name, score in found.items():
        mean = score.scores
        gap, *_ = paired(bayes[0] - score.per_task["target_pointwise"].cpu())
        base = found.get(f"{'CANP' if 'ANP' in name else 'CNP'}-{name.split('-')[1]}")
        against = ""
        if base is not None and base is not score:
            difference = score.per_task["target_pointwise"] - base.per_task["target_pointwise"]
            against = paired(difference)[0]
        spread = score.per_task.get("function_sd")
        factored = None if "calibrated" in name else autoregressive(models[name], tasks)
        rows.append(
            [
                name,
                f"{models[name].diagnostics['tasks_seen']:,}",
                f"{mean['target_pointwise']:.3f}",
                f"{mean['target_joint']:.3f}" if "target_joint" in mean else "-",
                "-" if factored is None else f"{factored.mean():.3f}",
                gap,
                against,
                f"{mean['context_pointwise']:.3f}",
                f"{mean['task_pointwise']:.3f}",
                " ".join(f"{share:.3f}" for share in score.coverage.values()),
                f"{score.pit_ks:.3f}",
                f"{score.crps:.4f}",
                "-" if score.martingale_defect is None else f"{score.martingale_defect:.3f}",
                "-"
                if spread is None
                else f"{spread[small].mean():.4f} {spread[large].mean():.4f}",
                distance(models[name]),
            ]
        )
    write_table(
        "neural_process_learning",
        "Neural processes on RBF tasks",
        TEXT.format(tasks=TASKS, attentive=ATTENTIVE, test=NUM_TEST, functions=FUNCTION_TASKS),
        HEADER,
        rows,
    )
    # Statements that hold after any training; what learning achieves is in the table.
    for name, score in found.items():
        _, mean, error = paired(score.per_task["target_pointwise"].cpu() - bayes[0])
        assert mean <= 3 * error, f"{name} beats the exact predictive: leakage"
        assert not score.collapsed, name
        if name.endswith("floor"):
            assert score.scores["context_pointwise"] <= 1.3836


HEADER = [
    "model",
    "tasks seen",
    "target LL",
    "joint",
    "AR joint",
    "oracle gap",
    "against conditional",
    "context LL",
    "task LL",
    "coverage 50 80 95 %",
    "PIT KS",
    "CRPS",
    "martingale defect",
    "spread of functions, n <= 8, n >= 30",
    "W2 of functions",
]
TEXT = (
    "RBF tasks of `GPTasks`, {tasks:,} seen in training in batches of 16 ({attentive:,} by "
    "attentive models), scored on {test:,} test tasks with K = 50 functions. Log-likelihoods "
    "(LL) are nats per point: pointwise, or joint over the targets of a task, by the functions "
    "or factored point after point (AR, two orders). Differences are paired, with standard "
    "errors over tasks. `floor`: σ >= 0.1, as published, which caps the "
    "density at 1.3836 nats; `free`: σ >= 0.001. `calibrated`: three factors from 256 "
    "validation tasks. W2 is the Gaussian Wasserstein distance per point of 200 functions from "
    "the integrated oracle, on {functions} test tasks; in brackets that of 200 exact functions."
)
