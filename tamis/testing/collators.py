"""`CollatorContract`: a frame-selecting collator gives the same frames in any worker, batch and process."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from tamis.testing.distributed import resolve, run_distributed

__all__ = ["CollatorContract"]

Setup = tuple[Any, Sequence[Any]]


class CollatorContract:
    """Subclass it and set ``factory``.

    Attributes:
        factory: ``"package.module:function"``; returns ``(collator, samples)``, the same each time: at least 5 samples
            of clips of different lengths, at least one of them shorter than ``num_frames``, with integer labels.
        num_frames: T.
    """

    factory: str
    num_frames: int

    def make(self) -> Setup:
        """A fresh collator, told its epoch, and its samples."""
        collate, samples = resolve(self.factory)()
        collate.set_epoch(0)
        return collate, samples

    def test_exactly_t_sorted_frames_whatever_the_clip(self) -> None:
        collate, samples = self.make()
        batch = collate(samples)
        frames = batch["frame_indices"]
        assert frames.shape == (len(samples), self.num_frames)
        assert frames.dtype == torch.int64
        assert bool((frames.diff(dim=1) >= 0).all())
        assert bool((frames >= 0).all())
        (pixels,) = (value for name, value in batch.items() if name.startswith("pixel_values"))
        assert pixels.shape[:2] == (len(samples), self.num_frames)
        assert pixels.dtype == torch.float32
        assert batch["labels"].shape == (len(samples),)

    def test_a_clip_s_frames_do_not_depend_on_its_batch(self) -> None:
        collate, samples = self.make()
        whole = collate(samples)
        alone = [collate([sample]) for sample in reversed(samples)][::-1]
        _same(whole, {name: torch.cat([batch[name] for batch in alone]) for name in whole})

    def test_running_workers_see_the_epoch(self) -> None:
        collate, samples = self.make()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
            loader = DataLoader(
                _Listed(samples),
                len(samples),
                collate_fn=collate,
                num_workers=1,
                persistent_workers=True,
                multiprocessing_context="fork",
            )
            for epoch in (0, 1, 7):
                collate.set_epoch(epoch)
                (there,) = loader
                _same(collate(samples), there)

    def test_workers_change_nothing(self) -> None:
        collate, samples = self.make()
        here = list(DataLoader(_Listed(samples), batch_size=2, collate_fn=collate))
        for method in ("fork", "spawn"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
                loader = DataLoader(
                    _Listed(samples), 2, collate_fn=collate, num_workers=2, multiprocessing_context=method
                )
                there = list(loader)
            assert len(here) == len(there)
            for one, other in zip(here, there, strict=True):
                _same(one, other)

    def test_global_random_state_is_left_alone(self) -> None:
        collate, samples = self.make()
        before = torch.get_rng_state()
        collate(samples)
        assert torch.equal(before, torch.get_rng_state())

    def test_a_copy_and_a_second_call_agree(self) -> None:
        collate, samples = self.make()
        first = collate(samples)
        _same(first, copy.deepcopy(collate)(samples))
        _same(first, collate(samples))

    def test_ranks_agree(self) -> None:
        collate, samples = self.make()
        here = collate(samples)["frame_indices"].tolist()
        assert run_distributed("tamis.testing.collators:chosen_frames", factory=self.factory) == [here, here]

    def test_a_label_is_not_needed(self) -> None:
        collate, samples = self.make()
        bare = [{name: value for name, value in sample.items() if name != collate.label} for sample in samples]
        assert "labels" not in collate(bare)

    def test_an_unreadable_video_is_named_or_skipped(self) -> None:
        from tamis.transforms import VideoError

        collate, samples = self.make()
        broken = {**samples[0], collate.video: b"no video"}
        with pytest.raises(VideoError, match="number 1 of the batch"):
            collate([samples[0], broken])
        collate.on_error = "skip"
        with pytest.warns(UserWarning, match="skipped 1 of 3 videos"):
            batch = collate([samples[0], broken, samples[1]])
        assert batch["labels"].tolist()[1] == -100
        assert batch["frame_indices"].shape == (3, self.num_frames)
        assert collate.skipped == 1
        with pytest.raises(VideoError, match="no video of the batch can be read"):
            collate([broken])


class _Listed(Dataset[Any]):
    def __init__(self, samples: Sequence[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


def chosen_frames(factory: str) -> list[list[int]]:
    """Run on each rank."""
    collate, samples = resolve(factory)()
    frames: list[list[int]] = collate(samples)["frame_indices"].tolist()
    return frames


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
