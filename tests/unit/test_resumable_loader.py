"""`ResumableLoader` and `attach`: who is told the epoch, passes that overlap, loaders that give nothing."""

import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import Trainer

from tamis import TamisError
from tamis.callbacks import ResumableLoader, attach
from tamis.testing import ShuffleSampler
from tamis.testing.toys import IndexedDataset, ToyModel
from tamis.testing.trainers import quiet_arguments


class Told(IndexedDataset):
    """Says in each row which epoch it was told, in the process that made the row."""

    told = -1

    def set_epoch(self, epoch):
        self.told = epoch

    def __getitem__(self, index):
        return {**super().__getitem__(index), "told": torch.tensor(self.told)}


class Shared(Told):
    """As tamis's own: the epoch lies in shared memory."""

    epoch_reaches_workers = True

    def __init__(self, size):
        super().__init__(size)
        self.shared = torch.tensor([-1]).share_memory_()

    def set_epoch(self, epoch):
        self.shared[0] = epoch

    def __getitem__(self, index):
        return {**super().__getitem__(index), "told": self.shared[0].clone()}


def make(data, prepared=False, **options):
    sampler = ShuffleSampler(len(data))
    loader = DataLoader(data, batch_size=4, sampler=sampler, **options)
    return ResumableLoader(Accelerator(cpu=True).prepare(loader) if prepared else loader, sampler)


def workers_of(batches):
    iterator = getattr(batches.loader, "base_dataloader", batches.loader)._iterator
    return [worker.pid for worker in iterator._workers]


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize(("kind", "workers"), [(Told, 0), (Told, 1), (Shared, 1)])
def test_a_data_set_is_told_each_epoch_whatever_its_workers(prepared, kind, workers):
    batches = make(kind(8), prepared, num_workers=workers, persistent_workers=workers > 0)
    told, processes = [], []
    for _ in batches.epochs(3):
        told.append([batch["told"].unique().tolist() for batch in batches])
        processes.append(workers_of(batches) if workers else [])
    assert told == [[[0], [0]], [[1], [1]], [[2], [2]]]
    if kind is Shared:
        assert processes[0] == processes[1] == processes[2]  # persistent, as asked


class Noting(ToyModel):
    def __init__(self):
        super().__init__()
        self.told = []

    def forward(self, told, **inputs):
        self.told.append(told.unique().tolist())
        return super().forward(**inputs)


@pytest.mark.parametrize("kind", [Told, Shared])
def test_an_attached_data_set_is_told_in_workers_that_stay(tmp_path, kind):
    options = dict(dataloader_num_workers=1, dataloader_persistent_workers=True, num_train_epochs=3)
    arguments = quiet_arguments(tmp_path, per_device_train_batch_size=4, **options)
    trainer = Trainer(Noting(), arguments, train_dataset=kind(8))
    attach(trainer, trainer.train_dataset)
    trainer.train()
    assert trainer.model.told == [[0], [0], [1], [1], [2], [2]]


def indices(batch):
    return batch["index"].tolist()


def test_a_pass_that_another_one_overtook_says_so():
    whole = [indices(batch) for batch in make(IndexedDataset(16))]
    batches = make(IndexedDataset(16))
    first = iter(batches)
    assert indices(next(first)) == whole[0]
    second = iter(batches)
    assert indices(next(second)) == whole[1]
    with pytest.raises(TamisError, match="another pass over it was begun, or a state loaded, while this one"):
        next(first)
    assert batches.position == 8
    assert [indices(batch) for batch in second] == whole[2:]
    third = iter(batches)
    next(third)
    batches.load_state_dict(batches.state_dict())
    with pytest.raises(TamisError, match="or a state loaded"):
        next(third)
    for batch in make(IndexedDataset(16)):  # a loop that is left is no pass that runs
        assert indices(batch) == whole[0]
        break


def test_a_loader_without_batches_is_refused():
    with pytest.raises(ValueError, match="an epoch has 3 samples, too few for batch_size=4, .* or drop_last=False"):
        make(IndexedDataset(3), drop_last=True)
    assert len(list(make(IndexedDataset(3)))) == 1
