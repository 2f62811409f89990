"""`RegularizerContract` and `PrunerContract`: the penalty is exact in every trainer, and training resumes exactly."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, Subset, default_collate

from tamis.callbacks import attach
from tamis.callbacks.validation import ValidationBatches
from tamis.core.distributed import all_mean_, broadcast_object, gather_objects, rank, world_size
from tamis.core.state import from_jsonable, to_jsonable
from tamis.pruners.base import Pruner, Regularizer
from tamis.testing.distributed import resolve, run_distributed
from tamis.testing.toys import ShuffleSampler
from tamis.testing.trainers import quiet_arguments

__all__ = ["PrunerContract", "RegularizerContract"]

EPOCHS, BATCH_SIZE = 2, 2
Setup = tuple[nn.Module, Regularizer, Dataset[Any]]


class RegularizerContract:
    """Subclass it and set ``factory``.

    Attributes:
        factory: ``"package.module:function"``; returns ``(model, regularizer, dataset)``, the same each time.
            The model takes a batch of the data set as keywords and returns ``{"loss", ...}``; with
            ``use_num_items=True`` it divides its summed loss by ``num_items_in_batch``.
        tolerance: largest allowed difference of a parameter after training.
    """

    factory: str
    tolerance: float = 1e-6

    def make(self, **options: Any) -> Setup:
        """A fresh model, its regularizer and the data."""
        setup: Setup = resolve(self.factory)(**options)
        return setup

    def test_added_gradient_is_the_gradient_of_the_penalty(self) -> None:
        _, regularizer, _ = self.make()
        tensors = list(regularizer.parameters())
        if not tensors:
            assert float(regularizer.penalty()) == 0.0
            assert regularizer.add_penalty_grad() == 0.0
            return
        expected = torch.autograd.grad(regularizer.penalty(), tensors, allow_unused=True)
        value = regularizer.add_penalty_grad(3.0)
        regularizer.add_penalty_grad(1.0)
        assert value == pytest.approx(float(regularizer.penalty().detach()), rel=1e-6, abs=1e-9)
        for tensor, grad in zip(tensors, expected, strict=True):
            if grad is not None:
                assert tensor.grad is not None
                torch.testing.assert_close(tensor.grad, 4.0 * grad, rtol=1e-5, atol=1e-8)

    @pytest.mark.parametrize("penalty", ["grad", "loss"])
    @pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
    def test_trainer_equals_a_handwritten_loop(self, penalty: str, optimizer: str) -> None:
        for case in CASES:
            worst = largest_difference(self.factory, optimizer=optimizer, penalty=penalty, **case)
            assert worst <= self.tolerance, f"{case}: parameters differ by {worst:.3g}"

    def test_two_processes_equal_a_handwritten_loop(self) -> None:
        for worst in run_distributed("tamis.testing.pruners:check_two_processes", factory=self.factory):
            assert max(worst.values()) <= self.tolerance, worst


class PrunerContract(RegularizerContract):
    """The same for a `Pruner`, and: its state resumes at every step, and the cut leaves a model that trains on.

    Attributes:
        plain: ``"package.module:function"``; builds the factory's model without any pruner, to load the cut one into.
    """

    plain: str

    def test_state_goes_through_json(self) -> None:
        _, pruner, _ = self.make()
        _, other, _ = self.make()
        assert isinstance(pruner, Pruner)
        assert isinstance(other, Pruner)
        state = json.loads(json.dumps(to_jsonable(pruner.state_dict())))
        other.load_state_dict(from_jsonable(state))
        assert to_jsonable(other.state_dict()) == state

    def test_resume_at_every_step_equals_not_stopping(self) -> None:
        assert resume_mismatches(self.factory) == []

    def test_resume_at_every_step_in_two_processes(self) -> None:
        assert run_distributed("tamis.testing.pruners:resume_mismatches", factory=self.factory) == [[], []]

    def test_the_cut_model_trains_and_loads_back(self, tmp_path: Path) -> None:
        from tamis import load_pruned

        trainer, model, pruner = _trainer(self.factory, str(tmp_path / "run"))
        before = sum(p.numel() for p in model.parameters())
        callback = attach(trainer, pruner, **_validation(pruner, trainer))
        trainer.train()
        assert callback.plan is not None, "the factory's pruner must have polarised by the end of its training"
        assert sum(p.numel() for p in model.parameters()) < before
        trainer.save_model(str(tmp_path / "small"))
        fresh = load_pruned(resolve(self.plain)(), tmp_path / "small")
        assert _differences(model, fresh) == []
        old = {name: p.detach().clone() for name, p in model.named_parameters()}
        trainer.train()
        still = [name for name, p in model.named_parameters() if p.numel() and torch.equal(p, old[name])]
        assert not still, f"the second train() left {still} as they were"


CASES: tuple[dict[str, Any], ...] = (
    {"accumulation": 1, "num_items": False, "clip": 0.0},
    {"accumulation": 2, "num_items": False, "clip": 0.3},
    {"accumulation": 3, "num_items": True, "clip": 0.3},
)


def check_two_processes(factory: str) -> dict[str, float]:
    """Run on each rank: the largest difference for each case, both ways of adding the penalty."""
    return {
        f"{penalty} {case}": largest_difference(factory, optimizer="AdamW", penalty=penalty, **case)
        for penalty in ("grad", "loss")
        for case in CASES
    }


def largest_difference(
    factory: str, *, optimizer: str, penalty: str, accumulation: int, num_items: bool, clip: float
) -> float:
    """Train with Trainer and with a handwritten loop; the largest difference of a parameter or buffer.

    Args:
        factory: ``module:function`` that makes (model, regularizer, data set).
        optimizer: ``SGD``, ``Adam``, ...
        penalty: as for `attach`.
        accumulation: micro-batches a step, >= 1.
        num_items: the model divides by ``num_items_in_batch``.
        clip: largest gradient norm; 0: not clipped.
    """
    make = resolve(factory)
    options = {"use_num_items": True} if num_items else {}
    build = _optimizer(optimizer)
    with tempfile.TemporaryDirectory() as folder:
        trainer, model, regularizer = _trainer(
            factory, folder, accumulation=accumulation, clip=clip, build=build, options=options
        )
        attach(trainer, regularizer, penalty=penalty, prune_at_end=False, **_validation(regularizer, trainer))
        trainer.train()
    by_hand, regularizer, dataset = make(**options)
    _handwritten_loop(by_hand, regularizer, dataset, build, accumulation, num_items, clip)
    here, there = model.state_dict(), by_hand.state_dict()
    pairs = [(here[name], there[name]) for name in here.keys() | there.keys()]
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs if a.numel())


def _optimizer(name: str) -> Callable[[nn.Module], torch.optim.Optimizer]:
    settings: dict[str, Any] = {"SGD": {"lr": 0.05, "momentum": 0.9}, "AdamW": {"lr": 0.01}}[name]
    return lambda model: getattr(torch.optim, name)(model.parameters(), **settings)


def _trainer(
    factory: str,
    folder: str,
    *,
    accumulation: int = 1,
    clip: float = 0.0,
    build: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    options: dict[str, Any] | None = None,
    save: bool = False,
) -> tuple[Any, nn.Module, Regularizer]:
    """A Trainer with a known order, its model and regularizer."""
    from transformers import PrinterCallback, Trainer

    model, regularizer, dataset = resolve(factory)(**(options or {}))
    arguments = quiet_arguments(
        folder,
        per_device_train_batch_size=BATCH_SIZE,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=EPOCHS,
        max_grad_norm=clip,
        learning_rate=0.01,
        lr_scheduler_type="constant",
        save_strategy="steps" if save else "no",
        save_steps=1,
        logging_steps=5,
    )
    made = build(model) if build else None
    schedule = torch.optim.lr_scheduler.LambdaLR(made, lambda _: 1.0) if made else None
    trainer = Trainer(model, arguments, train_dataset=dataset, optimizers=(made, schedule))
    attach(trainer, ShuffleSampler(len(dataset), seed=1))
    trainer.remove_callback(PrinterCallback)
    return trainer, model, regularizer


def _handwritten_loop(
    model: nn.Module,
    regularizer: Regularizer,
    dataset: Any,
    build: Callable[[nn.Module], torch.optim.Optimizer],
    accumulation: int,
    num_items: bool,
    clip: float,
) -> None:
    """What a user without a trainer would write, ranks averaged by hand."""
    optimizer, pruner = build(model), regularizer if isinstance(regularizer, Pruner) else None
    per_epoch = list(_micro_batches(dataset, 0))
    steps = -(-len(per_epoch) // accumulation)
    losses: dict[str, Any] = {}
    if pruner:
        pruner.begin(EPOCHS * steps)
    if pruner and pruner.validates:
        seed = quiet_arguments("unused").seed
        held_out = ValidationBatches(dataset, batch_size=BATCH_SIZE, collate=default_collate, seed=seed)
        losses["validation_loss"] = lambda: model(**held_out.batch(pruner.steps_taken))["loss"]
    model.train()
    for epoch in range(EPOCHS):
        batches = list(_micro_batches(dataset, epoch))
        for first in range(0, len(batches), accumulation):
            group = batches[first : first + accumulation]
            items = sum(len(batch["labels"]) for batch in group) * world_size()
            for batch in group:
                if num_items:
                    loss = model(**batch, num_items_in_batch=items)["loss"] * world_size()
                else:
                    loss = model(**batch)["loss"] / len(group)
                (loss + regularizer.penalty() / len(group)).backward()
            for parameter in model.parameters():
                if parameter.grad is not None:
                    all_mean_(parameter.grad)
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            if pruner:
                pruner.step(**losses)
            optimizer.zero_grad()


def _validation(regularizer: Regularizer, trainer: Any) -> dict[str, Any]:
    """A pruner that validates gets the training rows again: the suite asks what is computed, not what it is worth."""
    validates = isinstance(regularizer, Pruner) and regularizer.validates
    rows = trainer.train_dataset
    return {"validation": Subset(rows, range(len(rows)))} if validates else {}


def _micro_batches(dataset: Any, epoch: int) -> Iterator[Any]:
    """This rank's batches of an epoch: whole batches of the global order, dealt in turn."""
    sampler = ShuffleSampler(len(dataset), seed=1)
    sampler.set_epoch(epoch)
    order = list(sampler)
    batches = [order[i : i + BATCH_SIZE] for i in range(0, len(order), BATCH_SIZE)]
    for indices in batches[rank() :: world_size()]:
        yield default_collate([dataset[i] for i in indices])


def resume_mismatches(factory: str) -> list[str]:
    """Train once with a checkpoint at every step, resume from each; describe every difference at the end."""
    with tempfile.TemporaryDirectory() as folder:
        shared = broadcast_object(folder)
        trainer, whole, regularizer = _trainer(factory, f"{shared}/whole", save=True)
        attach(trainer, regularizer, **_validation(regularizer, trainer))
        trainer.train()
        wrong = []
        checkpoints = sorted(Path(f"{shared}/whole").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
        for checkpoint in checkpoints[:-1]:
            trainer, model, regularizer = _trainer(factory, f"{shared}/again")
            attach(trainer, regularizer, **_validation(regularizer, trainer))
            trainer.train(resume_from_checkpoint=str(checkpoint))
            wrong += [f"{checkpoint.name}: {text}" for text in _differences(whole, model)]
        gather_objects(None)
        return wrong


def _differences(first: nn.Module, second: nn.Module) -> list[str]:
    """The names of parameters and buffers that are not equal bit for bit."""
    one, two = first.state_dict(), second.state_dict()
    if one.keys() != two.keys():
        return [f"names differ: {sorted(one.keys() ^ two.keys())}"]
    return [
        f"{name} differs" for name in one if one[name].shape != two[name].shape or not torch.equal(one[name], two[name])
    ]
