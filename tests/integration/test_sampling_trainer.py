"""Real Hugging Face Trainers: metrics of `evaluate`, a followed training, cross-fitting, scalars in the log."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

from tamis.callbacks import attach
from tamis.core.errors import TamisError
from tamis.core.rng import torch_generator
from tamis.features import LossTrajectory, consensus_loss, sample_features
from tamis.samplers import TrimSampler
from tamis.search import search_swift, search_trim
from tamis.testing.distributed import run_distributed
from tamis.testing.trainers import quiet_arguments
from tests.integration.test_swift_trainer import Net, Rows

transformers = pytest.importorskip("transformers")
evaluate = pytest.importorskip("evaluate")

MODULE = """
import datasets
import evaluate


class {name}(evaluate.Metric):
    def _info(self):
        features = datasets.Features({{"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        hits = sum(p == r for p, r in zip(predictions, references)) / len(references)
        return {value}
"""


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """Metrics as the Hub would deliver them, from local files by the same loading code."""
    folder = tmp_path_factory.mktemp("modules")
    values = {"hits": '{"hits": hits}', "cer": '{"cer": 1 - hits}', "both": '{"hits": hits, "half": hits / 2}'}
    found = {}
    for name, value in values.items():
        (folder / name).mkdir()
        (folder / name / f"{name}.py").write_text(MODULE.format(name=name.title(), value=value))
        found[name] = evaluate.load(str(folder / name / f"{name}.py"))
    return found


def arguments(folder, **options):
    defaults = {"num_train_epochs": 1, "per_device_train_batch_size": 20, "remove_unused_columns": True}
    return quiet_arguments(folder, **{**defaults, **options})


def test_metrics_are_names_functions_and_modules_of_evaluate(tmp_path, modules):
    train, held_out = Rows(120, 1, wrong=0.33), Rows(60, 2)
    model = Net()
    features = sample_features(model, train)

    def objective(sampler):
        trainer = transformers.Trainer(
            model, arguments(tmp_path), train_dataset=train, eval_dataset=held_out, compute_metrics=named
        )
        attach(trainer, sampler)
        return trainer

    def named(prediction):
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    def function(prediction):
        return named(prediction)["accuracy"]

    options = {"model": model, "trials": 3, "optimizer": "random", "repeats": 0}
    metrics = {
        "eval_accuracy": "eval_accuracy",
        "accuracy": "accuracy",
        function.__qualname__: function,
        "evaluate:hits": modules["hits"],
        "evaluate:both:hits": (modules["both"], "hits"),
    }
    scores = {}
    for name, metric in metrics.items():
        policy = search_swift(objective, features, metric=metric, **options)
        assert policy.search.config["metric"] == name
        scores[name] = policy.search.score
    assert len(set(scores.values())) == 1, scores
    errors = search_swift(objective, features, metric=modules["cer"], **options)  # an error: less is better
    assert errors.search.score == pytest.approx(next(iter(scores.values())) - 1)
    trimmed = search_trim(objective, features, metric=modules["hits"], model=model, shares=(1.0, 0.7), repeats=1)
    assert 0 < trimmed.search.score <= 1

    with pytest.raises(TamisError, match=r"gives half, hits; say which is meant by metric=\(module, 'NAME'\)"):
        search_swift(objective, features, metric=modules["both"], **options)
    with pytest.raises(TamisError, match=r"metric='f1': must be one of .*eval_accuracy"):
        search_swift(objective, features, metric="f1", **options)
    with pytest.raises(TypeError, match=r"metric=0.5: must be a name such as 'eval_accuracy'"):
        search_swift(objective, features, metric=0.5, **options)


def test_combined_modules(tmp_path, modules):
    train = Rows(60, 1)
    model = Net()
    features = sample_features(model, train)
    combined = evaluate.combine([modules["hits"], modules["cer"]])

    def objective(sampler):
        trainer = transformers.Trainer(model, arguments(tmp_path), train_dataset=train, eval_dataset=train)
        attach(trainer, sampler)
        return trainer

    policy = search_trim(objective, features, metric=(combined, "hits"), model=model, shares=(0.8, 0.6), repeats=1)
    assert policy.search.config["metric"] == "evaluate:hits+cer:hits"
    assert 0 < policy.search.score <= 1


def follow(folder, resume=None, stop=None, workers=0, accumulation=1):
    """Three epochs of a Trainer that is followed; checkpoints after every step."""
    train = Rows(48, 1, wrong=0.3)
    model = Net()
    args = arguments(
        folder, num_train_epochs=3, per_device_train_batch_size=8, save_strategy="steps", save_steps=1,
        dataloader_num_workers=workers, gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    trainer = transformers.Trainer(model, args, train_dataset=train, eval_dataset=Rows(10, 3))
    trajectory = LossTrajectory(48)
    attach(trainer, trajectory)
    trainer.train(resume_from_checkpoint=resume)
    trainer.evaluate()
    return trajectory.columns(), trainer


def test_a_training_is_followed_at_no_extra_pass_and_through_a_resume(tmp_path, monkeypatch):
    columns, trainer = follow(tmp_path / "whole")
    calls, forward = [], Net.forward

    @functools.wraps(forward)
    def counted(self, *arguments, **keywords):
        calls.append(1)
        return forward(self, *arguments, **keywords)

    monkeypatch.setattr(Net, "forward", counted)
    again, _ = follow(tmp_path / "again", workers=2)
    monkeypatch.undo()
    assert len(calls) == 3 * 6 + 2  # and the evaluation
    assert torch.equal(again["mean_loss"], columns["mean_loss"])
    history = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    if history:
        assert np.mean(history) == pytest.approx(float(columns["mean_loss"].mean()), rel=1e-3)
    for step in (1, 7, 12):
        resumed, _ = follow(tmp_path / f"resumed{step}", resume=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert torch.equal(resumed["margin"], columns["margin"])
        assert torch.equal(resumed["mean_loss"], columns["mean_loss"])
    accumulated, _ = follow(tmp_path / "accumulated", accumulation=2)
    assert (accumulated["mean_loss"] > 0).all()


def test_evaluating_on_the_training_data_is_no_training_and_a_second_training_begins_anew(tmp_path):
    columns, trainer = follow(tmp_path)
    trajectory = trainer.compute_loss.trajectory
    trainer.evaluate(trainer.train_dataset)
    assert torch.equal(trajectory.columns()["mean_loss"], columns["mean_loss"])
    trainer.train()
    trajectory.sync()
    assert trajectory._known[0].tolist() == [3.0] * 48  # not 6
    assert not torch.equal(trajectory.columns()["mean_loss"], columns["mean_loss"])


def two_processes(folder):
    """Run on each rank: both know what both saw."""
    from tamis.core.distributed import gather_objects

    columns, trainer = follow(folder)
    sums = gather_objects(float(columns["mean_loss"].sum()))
    looks = trainer.callback_handler.callbacks[-1]
    assert sums[0] == sums[1]
    return [sums[0], type(looks).__name__]


def test_two_processes_know_what_both_saw(tmp_path):
    results = run_distributed("tests.integration.test_sampling_trainer:two_processes", folder=str(tmp_path))
    assert results[0] == results[1]


def test_what_cannot_be_followed_is_named(tmp_path):
    trainer = transformers.Trainer(Net(), arguments(tmp_path), train_dataset=Rows(48, 1))
    with pytest.raises(ValueError, match=r"size=50: must be 48, the samples of trainer.train_dataset"):
        attach(trainer, LossTrajectory(50))


def test_cross_fitting_by_trainers(tmp_path):
    train = Rows(120, 1, wrong=0.3)

    def fit(indices, seed):
        model = Net()
        with torch.no_grad():
            for p in model.parameters():
                p += 0.01 * torch.randn(p.shape)  # the global generators are seeded
        args = arguments(tmp_path, num_train_epochs=6, learning_rate=0.1, per_device_train_batch_size=10)
        return transformers.Trainer(model, args, train_dataset=torch.utils.data.Subset(train, indices))

    table = consensus_loss(train, fit, folds=2)
    wrong = (train.labels != Rows(120, 1).labels).numpy()
    loss = table["consensus_loss"].numpy()
    assert loss[wrong].mean() > loss[~wrong].mean() + 0.1
    assert torch.equal(table["consensus_loss"], consensus_loss(train, fit, folds=2)["consensus_loss"])


def test_cross_fitting_by_trainers_of_data_with_more_columns_than_the_model_takes(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = Rows(24, 1)
    columns = {name: [np.asarray(rows[k][name]).tolist() for k in range(24)] for name in rows[0]}
    data = datasets.Dataset.from_dict({**columns, "idx": list(range(24)), "sentence": ["a text"] * 24})

    def fit(indices, seed):
        model = Net()
        with torch.no_grad():
            for p in model.parameters():
                p += 0.01 * torch.randn(p.shape)
        return transformers.Trainer(model, arguments(tmp_path, max_steps=1), train_dataset=data.select(indices))

    assert len(consensus_loss(data, fit, folds=2, rounds=1)) == 24


def test_the_log_has_the_samplers_scalars(tmp_path):
    train = Rows(60, 1)
    trainer = transformers.Trainer(Net(), arguments(tmp_path, logging_steps=1), train_dataset=train)
    heard = []

    class Reporter(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            heard.append(dict(logs))

    trainer.add_callback(Reporter())
    attach(trainer, TrimSampler(torch.arange(60.0), 0.5, seed=1))
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert len(rows) == 3
    assert all(row["tamis/ess"] == 30 for row in rows)
    assert all(0.2 < row["tamis/distinct"] <= 0.5 for row in rows)
    assert all("tamis/ess" in row for row in heard if "loss" in row)
    assert not any("tamis/ess" in row for row in heard if "train_runtime" in row)


def test_texts_of_different_lengths_need_a_collator():
    rows = [{"input_ids": torch.arange(2 + k % 3), "labels": k % 2} for k in range(12)]
    with pytest.raises(ValueError, match=r"collate=None: torch cannot join these items .*pass collate=your_collator"):
        sample_features(nn.Linear(2, 2), rows)
    with pytest.raises(ValueError, match="collate=None"):
        consensus_loss(rows, lambda indices, seed: nn.Linear(2, 2), folds=2)


def cross_fitted_on_two(folder):
    """Run on each rank: data without ``targets`` or ``tensors``, whose labels are read item by item."""
    rows = [{"x": torch.full((2,), float(k % 3)), "labels": k % 2} for k in range(24)]

    class Linear(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.linear = nn.Linear(2, 2)
            with torch.no_grad():
                self.linear.weight.copy_(torch.randn(2, 2, generator=torch_generator(seed)))

        def forward(self, x, labels=None):
            return self.linear(x)

    fits = []

    def fit(indices, seed):
        fits.append(len(indices))
        return Linear(seed)

    sums = [float(consensus_loss(rows, fit, folds=2, out=folder)["second_loss"].sum()) for _ in range(2)]
    return [*sums, len(fits)]


def test_two_processes_cross_fit_all_of_the_data_and_find_what_they_kept(tmp_path):
    results = run_distributed("tests.integration.test_sampling_trainer:cross_fitted_on_two", folder=str(tmp_path))
    assert results[0] == results[1]
    assert results[0][0] == results[0][1]
    assert results[0][2] == 4  # none at the second call
