"""`attach` proves that the trainer draws from the sampler, or says why it does not and what to do."""

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler
from transformers import Trainer

from tamis import TamisError
from tamis.callbacks import SamplerCallback, attach
from tamis.testing import ShuffleSampler
from tamis.testing.toys import IndexedDataset, ToyModel
from tamis.testing.trainers import quiet_arguments


class Shuffled(BatchSampler):
    """As sentence-transformers' ``no_duplicates``: a `BatchSampler` that never asks its ``sampler``."""

    def __init__(self, dataset):
        super().__init__(dataset, 4, False)

    def __iter__(self):
        yield from torch.arange(len(self.sampler)).view(-1, 4).tolist()


class Own(Sampler):
    """As ``group_by_label``: a batch sampler without a sampler inside."""

    batch_size, drop_last = 4, False

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset) // 4

    def __iter__(self):
        yield from torch.arange(len(self.dataset)).view(-1, 4).tolist()


class Plain(BatchSampler):
    """As its default: a subclass that draws from its sampler."""


class Skips(BatchSampler):
    """Somebody's own way to draw from its sampler."""

    def __iter__(self):
        for batch in BatchSampler.__iter__(self):
            yield batch[::-1]


def trainer_with(folder, make_loader, prepare=True, **options):
    class OwnLoader(Trainer):
        def get_train_dataloader(self):
            loader = make_loader(self.train_dataset)
            return self.accelerator.prepare(loader) if prepare else loader

    settings = quiet_arguments(folder, per_device_train_batch_size=4, num_train_epochs=2, **options)
    return OwnLoader(ToyModel(), settings, train_dataset=IndexedDataset(8))


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        (Shuffled, "the first batch was not drawn from it: the trainer's batches come from a Shuffled"),
        (Own, "a Own of its own, without a sampler inside"),
    ],
)
@pytest.mark.parametrize("make", [attach, lambda trainer, sampler: trainer.add_callback(SamplerCallback(sampler))])
def test_a_batch_sampler_that_does_not_ask_stops_training_before_the_first_step(tmp_path, batches, words, make):
    trainer = trainer_with(tmp_path, lambda data: DataLoader(data, batch_sampler=batches(data)))
    make(trainer, ShuffleSampler(8))
    with pytest.raises(TamisError, match=words):
        trainer.train()
    assert trainer.model.seen == []


def drawn(trainer, sampler):
    attach(trainer, sampler)
    trainer.train()
    seen = [index for batch in trainer.model.seen for index in batch]
    orders = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    return seen, orders


def test_a_batch_sampler_that_asks_is_drawn_from(tmp_path):
    def loader(data):
        return DataLoader(data, batch_sampler=Plain(torch.utils.data.RandomSampler(data), 4, False))

    seen, orders = drawn(trainer_with(tmp_path, loader), ShuffleSampler(8, seed=3))
    assert seen == orders[0] + orders[1]

    def reversing(data):
        return DataLoader(data, batch_sampler=Skips(torch.utils.data.RandomSampler(data), 4, False))

    seen, orders = drawn(trainer_with(tmp_path, reversing), ShuffleSampler(8, seed=3))
    assert seen == [index for order in orders for half in (order[:4], order[4:]) for index in half[::-1]]


def test_a_sampler_that_does_not_count_needs_a_batch_sampler_of_pytorchs(tmp_path):
    class Foreign(Sampler):
        set_epoch = load_state_dict = lambda self, value: None

        def state_dict(self):
            return {}

        def __len__(self):
            return 8

        def __iter__(self):
            return iter(range(7, -1, -1))

    trainer = trainer_with(tmp_path, lambda data: DataLoader(data, batch_size=4, shuffle=True))
    attach(trainer, Foreign())
    trainer.train()
    assert trainer.model.seen == [[7, 6, 5, 4], [3, 2, 1, 0]] * 2
    reversing = trainer_with(
        tmp_path, lambda data: DataLoader(data, batch_sampler=Skips(torch.utils.data.RandomSampler(data), 4, False))
    )
    attach(reversing, Foreign())
    with pytest.raises(TamisError, match="batches come from a Skips"):
        reversing.train()


def test_a_plain_loader_is_drawn_from(tmp_path):
    loader = trainer_with(tmp_path, lambda data: DataLoader(data, batch_size=4, shuffle=True), prepare=False)
    seen, orders = drawn(loader, ShuffleSampler(8, seed=3))
    assert seen == orders[0] + orders[1]


def test_a_loader_of_another_length_is_told(tmp_path):
    trainer = trainer_with(tmp_path, lambda data: DataLoader(data, batch_size=4, shuffle=True))
    sampler = ShuffleSampler(8)
    sampler.num_samples = 4
    attach(trainer, sampler)
    with pytest.raises(ValueError, match=r"len\(sampler\)=4: was 8 when training was prepared"):
        trainer.train()


def test_training_arguments_that_ask_for_another_order(tmp_path):
    for strategy in ("group_by_length", "sequential"):
        settings = quiet_arguments(tmp_path, train_sampling_strategy=strategy, max_steps=1)
        trainer = Trainer(ToyModel(), settings, train_dataset=IndexedDataset(8))
        with pytest.raises(ValueError, match=f"{strategy}.*an order of its own"):
            attach(trainer, ShuffleSampler(8))
    trainer.add_callback(SamplerCallback(ShuffleSampler(8)))
    with pytest.raises(ValueError, match="an order of its own"):
        trainer.train()


def test_a_trainer_class_with_an_order_of_its_own(tmp_path):
    class Repeats(Trainer):
        def _get_train_sampler(self, train_dataset=None):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    settings = quiet_arguments(tmp_path, max_steps=1)
    with pytest.raises(TamisError, match=r"Repeats makes an order of its own .* gives a SequentialSampler"):
        attach(Repeats(ToyModel(), settings, train_dataset=IndexedDataset(8)), ShuffleSampler(8))


def make_repeating(data):
    return RandomSampler(data, num_samples=2 * len(data))  # as GRPO, in a plain sampler's clothes


def make_part(data):
    return RandomSampler(range(len(data) // 2))


def make_replacing(data):
    return RandomSampler(data, replacement=True)


def fail(data):
    raise OSError("no order today")


@pytest.mark.parametrize("make", [make_repeating, make_part, make_replacing, fail])
def test_orders_that_only_look_plain_are_refused(tmp_path, make):
    class Own(Trainer):
        def _get_train_sampler(self, train_dataset=None):
            return make(train_dataset)

    words = (
        r"fails when it is asked for its order \(OSError: no order today\)" if make is fail else "an order of its own"
    )
    with pytest.raises(TamisError, match=words):
        attach(Own(ToyModel(), quiet_arguments(tmp_path), train_dataset=IndexedDataset(8)), ShuffleSampler(8))


def test_an_override_that_only_asks_trainer_is_no_order_of_its_own(tmp_path):
    class Logs(Trainer):
        def _get_train_sampler(self, train_dataset=None):
            torch.rand(1)
            return super()._get_train_sampler(train_dataset)

    settings = quiet_arguments(tmp_path, per_device_train_batch_size=4, num_train_epochs=2)
    trainer = Logs(ToyModel(), settings, train_dataset=IndexedDataset(8))
    before = torch.get_rng_state()
    seen, orders = drawn(trainer, ShuffleSampler(8, seed=3))
    assert seen == orders[0] + orders[1]
    torch.set_rng_state(before)
    attach(trainer, ShuffleSampler(8))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_trainer_that_knows_its_data_itself(tmp_path):
    class OwnData(Trainer):
        def get_train_dataloader(self):
            return self.accelerator.prepare(DataLoader(IndexedDataset(8), batch_size=4, shuffle=True))

    settings = quiet_arguments(tmp_path, per_device_train_batch_size=4, num_train_epochs=2)
    seen, orders = drawn(OwnData(ToyModel(), settings), ShuffleSampler(8, seed=3))
    assert seen == orders[0] + orders[1]
    trainer = OwnData(ToyModel(), settings)
    attach(trainer, ShuffleSampler(9))
    with pytest.raises(ValueError, match="made for 9 items, but train_dataset has 8"):
        trainer.train()
    with pytest.raises(TypeError, match="train_dataset is a NoneType"):
        attach(Trainer(ToyModel(), settings), ShuffleSampler(8))
