"""FrameSelectionCollator keeps the promises of a collator, for every selector."""

import functools

import pytest

pytest.importorskip("av", reason="needs PyAV: pip install 'tamis[video]'")

from tamis.testing import CollatorContract
from tamis.transforms import FarthestFrames, FrameSelectionCollator, SegmentFrames
from tests.unit.video_tools import encode, pictures


@functools.cache
def samples():
    return [{"video": encode(pictures(count)), "label": count % 3} for count in (30, 12, 3, 1, 17)]


def segments():
    return FrameSelectionCollator(SegmentFrames(), 4, seed=5), samples()


def farthest():
    return FrameSelectionCollator(FarthestFrames(), 4, candidates=10), samples()


class TestSegments(CollatorContract):
    factory = "tests.contract.test_frames_contract:segments"
    num_frames = 4


class TestFarthest(CollatorContract):
    factory = "tests.contract.test_frames_contract:farthest"
    num_frames = 4
