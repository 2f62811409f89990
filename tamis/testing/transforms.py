"""`TransformContract`: what every tamis transform keeps, as a pytest suite to subclass."""

from __future__ import annotations

import copy
import pickle  # noqa: TID251  (the contract: loaders pickle transforms under spawn)
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from tamis.testing.distributed import resolve

__all__ = ["TransformContract"]


def as_bits(sample: object) -> object:
    """A sample as something that compares exactly."""
    if isinstance(sample, dict):
        return {key: as_bits(value) for key, value in sample.items()}
    if isinstance(sample, (tuple, list)):
        return [as_bits(value) for value in sample]
    if isinstance(sample, torch.Tensor):
        return (str(sample.dtype), tuple(sample.shape), sample.cpu().numpy().tobytes())
    if hasattr(sample, "tobytes"):
        return (getattr(sample, "mode", ""), getattr(sample, "size", ()), sample.tobytes())
    return sample


def keep(samples: list[Any]) -> list[Any]:
    """A collate function that changes nothing."""
    return samples


class TransformContract:
    """Subclass it, set the two attributes, and pytest runs the suite.

    Attributes:
        factory: ``"package.module:function"``; builds a map-style data set that applies the transform and has
            ``set_epoch``; takes ``seed=``. It must be importable, so that spawned workers can build it too.
        data_size: its length.
    """

    factory: str
    data_size: int = 24

    def make(self, seed: int = 3) -> Any:
        """A fresh data set with its transform, told that epoch 0 begins."""
        dataset = resolve(self.factory)(seed=seed)
        dataset.set_epoch(0)
        return dataset

    def samples(self, dataset: Dataset[Any], *, workers: int = 0, start: str | None = None) -> list[object]:
        """All samples in order, as bits.

        Args:
            dataset: from `make`.
            workers: loader workers, >= 0.
            start: how they are started, e.g. ``"spawn"``; default: torch's.
        """
        batches = DataLoader(dataset, 5, collate_fn=keep, num_workers=workers, multiprocessing_context=start)
        return [as_bits(sample) for batch in batches for sample in batch]

    def test_samples_are_a_pure_function_of_seed_epoch_and_index(self) -> None:
        first, second = self.make(), self.make()
        epochs = []
        for epoch in range(2):
            first.set_epoch(epoch)
            epochs.append([as_bits(first[index]) for index in range(self.data_size)])
        for epoch in reversed(range(2)):
            second.set_epoch(epoch)
            backwards = [as_bits(second[index]) for index in reversed(range(self.data_size))]
            assert backwards[::-1] == epochs[epoch], "the order of access must not matter"
        assert epochs[0] != epochs[1], "epochs must differ"
        assert [as_bits(self.make(seed=4)[index]) for index in range(self.data_size)] != epochs[0], "seeds must differ"

    def test_workers_see_the_same_samples(self) -> None:
        streams = [self.samples(self.make(), workers=workers) for workers in (0, 1, 2)]
        assert len(streams[0]) >= self.data_size
        assert streams[0] == streams[1] == streams[2]

    def test_spawned_workers_see_the_same_samples(self) -> None:
        spawned = self.samples(self.make(), workers=1, start="spawn")
        assert spawned == self.samples(self.make())

    def test_persistent_workers_see_a_new_epoch(self) -> None:
        dataset, other = self.make(), self.make()
        loader = DataLoader(dataset, 5, collate_fn=keep, num_workers=1, persistent_workers=True)
        for epoch in range(2):
            dataset.set_epoch(epoch)
            other.set_epoch(epoch)
            assert [as_bits(sample) for batch in loader for sample in batch] == self.samples(other)

    def test_global_generators_are_untouched(self) -> None:
        dataset = self.make()
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
        for index in range(self.data_size):
            dataset[index]
        assert torch.equal(torch.get_rng_state(), torch_state)
        assert np.array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[index]  # noqa: NPY002

    def test_copies_give_the_same_samples(self) -> None:
        dataset = self.make()
        dataset.set_epoch(1)
        want = [as_bits(dataset[index]) for index in range(self.data_size)]
        for twin in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):  # noqa: S301
            assert [as_bits(twin[index]) for index in range(self.data_size)] == want

    def test_a_resumed_epoch_gives_what_was_left(self) -> None:
        dataset = self.make()
        dataset.set_epoch(1)
        whole = [as_bits(dataset[index]) for index in range(self.data_size)]
        for position in range(0, self.data_size, 5):
            again = self.make()
            again.set_epoch(1)
            assert [as_bits(again[index]) for index in range(position, self.data_size)] == whole[position:]

    def test_inputs_stay_as_they_were(self) -> None:
        dataset = self.make()
        source = dataset.dataset
        before = [as_bits(source[index]) for index in range(self.data_size)]
        for index in range(self.data_size):
            dataset[index]
        assert [as_bits(source[index]) for index in range(self.data_size)] == before
