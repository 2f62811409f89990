"""`SamplerContract`: what every tamis sampler keeps, as a pytest suite to subclass."""

from __future__ import annotations

import copy
import json
import pickle  # noqa: TID251  (the contract: loaders pickle samplers under spawn)
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from tamis.core.state import from_jsonable, to_jsonable
from tamis.samplers.base import StatefulSampler
from tamis.testing.distributed import resolve, run_distributed
from tamis.testing.elastic import elastic_mismatches
from tamis.testing.toys import IndexedDataset
from tamis.testing.trainers import Run, Trace, resume_mismatches, run_accelerate, run_plain, run_trainer

__all__ = ["SamplerContract"]

TRAINERS: dict[str, Callable[..., Trace]] = {"trainer": run_trainer, "accelerate": run_accelerate, "plain": run_plain}


class SamplerContract:
    """Subclass it, set the two attributes, and pytest runs the suite.

    Attributes:
        factory: ``"package.module:function"``; builds the sampler; takes ``seed=``.
        data_size: number of items the sampler draws from (24 or so: trainings run on it).
        settings: (workers, accumulation) pairs for the resume tests.
    """

    factory: str
    data_size: int = 24
    settings: tuple[tuple[int, int], ...] = ((0, 1), (2, 2))

    def make(self, seed: int = 3) -> StatefulSampler:
        """A fresh sampler."""
        sampler: StatefulSampler = resolve(self.factory)(seed=seed)
        return sampler

    def run(self, workers: int, accumulation: int) -> Run:
        """The training that the resume tests do.

        Args:
            workers: loader workers, >= 0.
            accumulation: micro-batches per optimizer step, >= 1.
        """
        return Run(self.make, self.data_size, workers=workers, accumulation=accumulation)

    def test_length_is_honest_and_indices_are_valid(self) -> None:
        sampler = self.make()
        for epoch in range(3):
            sampler.set_epoch(epoch)
            order = list(sampler)
            assert len(order) == len(sampler)
            assert all(isinstance(index, int) and 0 <= index < self.data_size for index in order)

    def test_order_is_a_pure_function_of_seed_and_epoch(self) -> None:
        first, second = self.make(), self.make()
        orders = []
        for epoch in range(3):
            first.set_epoch(epoch)
            orders.append(list(first))
            assert list(first) == orders[-1], "iterating twice must give one order"
        for epoch in reversed(range(3)):
            second.set_epoch(epoch)
            assert list(second) == orders[epoch]
        assert len({tuple(order) for order in orders}) == 3, "epochs must differ"
        assert list(self.make(seed=4)) != orders[0], "seeds must differ"

    def test_global_generators_are_untouched(self) -> None:
        sampler = self.make()
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
        list(sampler)
        assert torch.equal(torch.get_rng_state(), torch_state)
        assert np.array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[index]  # noqa: NPY002

    def test_state_goes_through_json(self) -> None:
        sampler = self.make()
        sampler.set_epoch(2)
        text = json.dumps(to_jsonable(sampler.state_dict()))
        other = self.make(seed=9)
        other.load_state_dict(from_jsonable(json.loads(text)))
        assert list(other) == list(sampler)

    def test_copies_give_the_same_order(self) -> None:
        sampler = self.make()
        sampler.set_epoch(1)
        assert list(copy.deepcopy(sampler)) == list(sampler)
        assert list(pickle.loads(pickle.dumps(sampler))) == list(sampler)  # noqa: S301

    def test_seek_skips_and_changes_nothing_after(self) -> None:
        sampler = self.make()
        order = list(sampler)
        for position in range(len(order) + 1):
            sampler.seek(position)
            assert list(sampler) == order[position:]
        assert list(sampler) == order, "a position holds for one iteration only"

    def test_iterator_state_resumes_at_every_index(self) -> None:
        sampler = self.make()
        order = list(sampler)
        iterator = iter(sampler)
        for position in range(len(order)):
            state = json.loads(json.dumps(iterator.state_dict()))
            again = iter(self.make())
            again.load_state_dict(state)
            assert list(again) == order[position:]
            next(iterator)

    def test_workers_see_the_same_stream(self) -> None:
        streams = []
        for workers in (0, 1, 2):
            loader = DataLoader(IndexedDataset(self.data_size), 5, sampler=self.make(), num_workers=workers)
            streams.append([index for batch in loader for index in batch["index"].tolist()])
        assert streams[0] == streams[1] == streams[2]

    def test_stateful_dataloader_resumes_at_every_batch(self) -> None:
        from torchdata.stateful_dataloader import StatefulDataLoader

        def loader(workers: int) -> Any:
            return StatefulDataLoader(IndexedDataset(self.data_size), 5, sampler=self.make(), num_workers=workers)

        whole = [batch["index"].tolist() for batch in loader(0)]
        for workers in (0, 2):
            running = loader(workers)
            for number, _ in enumerate(running):
                state = running.state_dict()
                again = loader(workers)
                again.load_state_dict(state)
                rest = [batch["index"].tolist() for batch in again]
                if number + 1 < len(whole):
                    assert rest == whole[number + 1 :]
                if workers and number:  # two of the resumes with workers show it; each starts processes
                    break

    def test_three_trainers_see_the_same_stream(self, tmp_path: Path) -> None:
        streams = [train(self.run(0, 1), str(tmp_path / name)).seen for name, train in TRAINERS.items()]
        assert streams[0] == streams[1] == streams[2]

    def test_resume_at_every_step_equals_not_stopping(self) -> None:
        for workers, accumulation in self.settings:
            for name, train in TRAINERS.items():
                wrong = resume_mismatches(train, self.run(workers, accumulation))
                assert not wrong, f"{name}, workers={workers}, accumulation={accumulation}: {wrong}"

    def test_resume_at_every_step_in_two_processes(self) -> None:
        results = run_distributed(
            "tamis.testing.samplers:check_two_processes",
            factory=self.factory, data_size=self.data_size, settings=[list(pair) for pair in self.settings],
        )  # fmt: skip
        assert results == [[], []]

    def test_resume_on_another_number_of_processes(self, tmp_path: Path) -> None:
        wrong = []
        for number, sizes in enumerate([({"processes": 2}, {}), ({}, {"processes": 2})]):
            for name in ("trainer", "accelerate"):
                folder = str(tmp_path / f"{name}{number}")
                wrong += elastic_mismatches(name, self.factory, self.data_size, folder, sizes, every=3)
        assert not wrong


def check_two_processes(factory: str, data_size: int, settings: list[list[int]]) -> list[str]:
    """Run by `SamplerContract` on each rank: resume everywhere, ranks agree on the order and share no position."""
    from tamis.core.distributed import gather_objects

    wrong = []
    for workers, accumulation in settings:
        run = Run(resolve(factory), data_size, batch_size=2, workers=workers, accumulation=accumulation)
        for name in ("trainer", "accelerate"):
            found = resume_mismatches(TRAINERS[name], run)
            wrong += [f"{name}, workers={workers}, accumulation={accumulation}: {text}" for text in found]
    sampler = resolve(factory)()
    orders = gather_objects(list(sampler))
    if orders[0] != orders[1]:
        wrong.append("the ranks' global orders differ")
    run = Run(resolve(factory), data_size, batch_size=2)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        dealt = gather_objects(run_accelerate(run, folder).seen)
    one_epoch = len(dealt[0]) // 2
    merged = [
        index
        for pair in zip(*(batches[:one_epoch] for batches in dealt), strict=True)
        for part in pair
        for index in part
    ]
    if merged[: len(orders[0])] != orders[0]:
        wrong.append(f"ranks saw {merged}, the global order is {orders[0]}")
    return wrong
