"""Resumes that went wrong in silence: rank 0 dispatching, stateful loaders, another number of processes."""

import json
import warnings

import pytest
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from torch.utils.data import BatchSampler, DataLoader
from transformers import Trainer

from tamis import TamisError
from tamis.callbacks import ResumableLoader, SamplerCallback, attach
from tamis.testing import ShuffleSampler, run_distributed
from tamis.testing.elastic import elastic_mismatches
from tamis.testing.toys import IndexedDataset, ToyModel
from tamis.testing.trainers import Run, quiet_arguments, resume_mismatches, run_accelerate
from tests.distributed.resume import make_uneven

BOTH = ["trainer", "accelerate"]


@pytest.mark.parametrize(
    ("trainers", "loader", "batch_size", "accumulation"),
    [
        (BOTH, {"dispatch_batches": True}, 2, 1),
        (BOTH, {"dispatch_batches": True, "split_batches": True}, 4, 2),
        (BOTH, {"split_batches": True}, 4, 1),
        (["accelerate"], {"use_stateful_dataloader": True}, 2, 1),
    ],
)
def test_resume_in_two_processes(trainers, loader, batch_size, accumulation):
    options = dict(trainers=trainers, loader=loader, batch_size=batch_size, accumulation=accumulation)
    assert run_distributed("tests.distributed.resume:resumes", **options) == [[], []]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_loader_loses_no_batch_of_the_next_epoch(workers):
    run = Run(make_uneven, 22, 4, workers, 1, {"use_stateful_dataloader": True})
    assert resume_mismatches(run_accelerate, run) == []


class Told(IndexedDataset):
    """Says in each row which epoch its data set was told, in the process that made the row."""

    told = -1

    def set_epoch(self, epoch):
        self.told = epoch

    def __getitem__(self, index):
        return {**super().__getitem__(index), "told": torch.tensor(self.told)}


def test_a_stateful_loaders_workers_are_told_the_epoch_before_they_read():
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(use_stateful_dataloader=True))
    data, sampler = Told(24), ShuffleSampler(24)
    loader = accelerator.prepare(DataLoader(data, batch_size=4, sampler=sampler, num_workers=2))
    batches = ResumableLoader(loader, sampler)
    for epoch in batches.epochs(2):
        data.set_epoch(epoch)
        assert {int(value) for batch in batches for value in batch["told"]} == {epoch}


ELASTIC = [
    ({"processes": 2}, {"accumulation": 2}),  # the same global batch
    ({"processes": 2}, {"batch_size": 3}),
    ({"processes": 2, "accumulation": 2}, {"batch_size": 5}),
    ({}, {"processes": 2, "batch_size": 3}),
]


@pytest.mark.parametrize("sizes", ELASTIC)
def test_resume_with_other_sizes(tmp_path, sizes):
    factory = "tests.distributed.resume:make_uneven"
    assert elastic_mismatches("trainer", factory, 22, str(tmp_path / "t"), sizes) == []
    if all("accumulation" not in size for size in sizes):  # Accelerate's loops know nothing of it
        assert elastic_mismatches("accelerate", factory, 22, str(tmp_path / "a"), sizes) == []


def trainer_of(folder, batch_size, sampler, attached=True, **options):
    settings = {"num_train_epochs": 3, "learning_rate": 0.1, **options}
    arguments = quiet_arguments(folder, per_device_train_batch_size=batch_size, **settings)
    trainer = Trainer(ToyModel(), arguments, train_dataset=IndexedDataset(24))
    attach(trainer, sampler) if attached else trainer.add_callback(SamplerCallback(sampler))
    return trainer


def test_steps_and_schedule_end_with_the_data(tmp_path):
    trainer_of(tmp_path, 4, ShuffleSampler(24), save_strategy="steps", save_steps=1).train()
    for batch_size, step, left in ((2, 8, 20), (8, 8, 5), (2, 3, 30)):
        again = trainer_of(tmp_path / "again", batch_size, ShuffleSampler(24))
        with pytest.warns(UserWarning, match="a step uses another number of samples"):
            again.train(resume_from_checkpoint=f"{tmp_path}/checkpoint-{step}")
        assert len(again.model.seen) == left
        assert again.state.global_step == again.state.max_steps == step + left
        assert again.lr_scheduler.get_last_lr() == [0.0, 0.0]
        assert again.lr_scheduler.last_epoch == 72 // batch_size


def test_a_second_resume_after_other_sizes(tmp_path):
    trainer_of(tmp_path, 4, ShuffleSampler(24), save_strategy="steps", save_steps=1).train()
    again = trainer_of(tmp_path / "b", 2, ShuffleSampler(24), save_strategy="steps", save_steps=1)
    with pytest.warns(UserWarning, match="a step uses another number of samples"):
        again.train(resume_from_checkpoint=f"{tmp_path}/checkpoint-3")
    third = trainer_of(tmp_path / "c", 2, ShuffleSampler(24))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        third.train(resume_from_checkpoint=f"{tmp_path}/b/checkpoint-13")
    assert third.model.seen == again.model.seen[10:]
    assert torch.equal(third.model.scale, again.model.scale)


def test_what_cannot_be_is_refused(tmp_path):
    trainer_of(tmp_path, 4, ShuffleSampler(24), max_steps=12, save_strategy="steps", save_steps=1).train()
    with pytest.raises(TamisError, match="stop after 0 of the 4 steps left; set gradient_accumulation_steps"):
        trainer_of(tmp_path / "a", 1, ShuffleSampler(24), max_steps=12).train(
            resume_from_checkpoint=f"{tmp_path}/checkpoint-8"
        )
    alone = trainer_of(tmp_path / "b", 2, ShuffleSampler(24), attached=False)
    with pytest.raises(TamisError, match=r"written at index 8 of epoch 0, .* use attach\(trainer, sampler\)"):
        alone.train(resume_from_checkpoint=f"{tmp_path}/checkpoint-2")


def test_ignore_data_skip_begins_the_epoch_again(tmp_path):
    trainer_of(tmp_path, 4, ShuffleSampler(24), save_strategy="steps", save_steps=1).train()
    again = trainer_of(tmp_path / "again", 4, ShuffleSampler(24), ignore_data_skip=True)
    again.train(resume_from_checkpoint=f"{tmp_path}/checkpoint-8")
    order = ShuffleSampler(24)
    order.set_epoch(1)
    assert [index for batch in again.model.seen[:6] for index in batch] == list(order)


def without_place(checkpoint):
    """As release 0.1 wrote it."""
    path = checkpoint / "trainer_state.json"
    state = json.loads(path.read_text())
    del state["stateful_callbacks"]["SamplerCallback"]["attributes"]["place"]
    path.write_text(json.dumps(state))
    return str(checkpoint)


@pytest.mark.parametrize("attached", [True, False])
def test_a_checkpoint_without_a_place_goes_on_as_trainer_does(tmp_path, attached):
    whole = trainer_of(tmp_path, 4, ShuffleSampler(24), save_strategy="steps", save_steps=1)
    whole.train()
    options = {"save_strategy": "steps", "save_steps": 1, "attached": attached}
    again = trainer_of(tmp_path / "again", 4, ShuffleSampler(24), **options)
    again.train(resume_from_checkpoint=without_place(tmp_path / "checkpoint-8"))
    assert again.model.seen == whole.model.seen[8:]
    for step in (9, 13):  # in the epoch that was resumed, and in the next one
        third = trainer_of(tmp_path / "third", 4, ShuffleSampler(24), attached=attached)
        third.train(resume_from_checkpoint=f"{tmp_path}/again/checkpoint-{step}")
        assert third.model.seen == whole.model.seen[step:]


class Reversed(BatchSampler):
    """Somebody's own, whose position nobody knows."""

    def __iter__(self):
        for batch in super().__iter__():
            yield batch[::-1]


class OwnLoader(Trainer):
    def get_train_dataloader(self):
        order = Reversed(torch.utils.data.RandomSampler(self.train_dataset), self._train_batch_size, False)
        return self.accelerator.prepare(DataLoader(self.train_dataset, batch_sampler=order))


@pytest.mark.parametrize("kind", [Trainer, OwnLoader])
def test_a_checkpoint_without_a_place_is_refused_with_other_sizes(tmp_path, kind):
    def go(folder, batch_size, accumulation=1, resume=None, **options):
        options = {"num_train_epochs": 2, "gradient_accumulation_steps": accumulation, **options}
        arguments = quiet_arguments(tmp_path / folder, per_device_train_batch_size=batch_size, **options)
        trainer = kind(ToyModel(), arguments, train_dataset=IndexedDataset(24))
        attach(trainer, ShuffleSampler(24))
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model.seen

    whole = go("whole", 4, save_strategy="steps", save_steps=1)
    for step in (2, 6, 8):
        path = tmp_path / "whole" / f"checkpoint-{step}"
        checkpoint = without_place(path) if kind is Trainer else str(path)
        for sizes in ((8,), (2,), (4, 2), (2, 2)):
            if step == 6 and sizes == (2, 2):  # an epoch's beginning is the same place
                continue
            with pytest.raises(TamisError, match=f"checkpoint at step {step} was .* with batches of 4 .* elsewhere"):
                go("refused", *sizes, resume=checkpoint)
        assert go("again", 4, resume=checkpoint) == whole[step:]
        begun = go("begun", 4, resume=checkpoint, ignore_data_skip=True)
        assert begun == whole[step // 6 * 6 :][: 12 - step]  # Trainer counts its steps on


def test_ranks_with_different_searches_are_told():
    said = run_distributed("tests.distributed.resume:different_searches")
    assert said[0] == said[1]
    assert "ranks 0 and 1 were given different searches: seed differ (seed=0 and 1)" in said[0]


def test_ranks_with_different_samplers_are_told():
    for said in run_distributed("tests.distributed.resume:different_samplers"):
        assert len(said) == 2
        assert all("ShuffleSampler: the processes hold different ones (seed differ)" in text for text in said)


def test_loops_on_two_processes():
    for said, told in run_distributed("tests.distributed.resume:loops_on_two_processes"):
        assert len(said) == 2
        assert "each process would draw the same batches; pass accelerator.prepare(loader)" in said[0]
        assert "loader gives no batch to a process: an epoch has 4 samples" in said[1]
        assert told == [[[0], [0]], [[1], [1]]]


def test_a_cut_is_checked_with_the_same_rows_on_every_rank():
    assert run_distributed("tests.distributed.resume:first_rows_of_different_data") == [[[0.0]] * 4] * 2
