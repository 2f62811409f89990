"""The collator for video: decodes each clip, keeps the frames a selector chooses, and makes the model's tensor.

    collate = FrameSelectionCollator(tamis.load_policy("runs/frames"), num_frames=8, processor=VideoMAEVideoProcessor())
    Trainer(model, args, train_dataset=videos, data_collator=collate)  # args: remove_unused_columns=False

Two passes over a clip: features of its candidate frames, read at thumbnail size, then the chosen frames, exact. The
selected frames are a pure function of (clip, selector, seed, epoch), so workers, ranks and batch order change nothing,
nor does the folder that a file lies in.
A selector that draws needs to be told the epoch: ``tamis.callbacks.attach(trainer, collate)``.
The method is in `policy`; files are read by `video`, features kept by `cache`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch

from tamis.core.checks import check_choice, check_int
from tamis.core.errors import NoEffectWarning, PolicyError, TamisError
from tamis.core.rng import check_seed
from tamis.core.types import Figure, PathOrStr, VideoSource
from tamis.transforms.frames.cache import FeatureCache, encode_frames
from tamis.transforms.frames.encoder import FrameEncoder, PixelEncoder
from tamis.transforms.frames.identity import clip_number
from tamis.transforms.frames.policy import FramePolicy
from tamis.transforms.frames.selectors import ClipView, FrameSelector, UniformFrames
from tamis.transforms.frames.video import BACKENDS, VideoError, VideoFrames, open_video

__all__ = ["FrameSelectionCollator"]

# a clip's chosen frames uint8 [T, 3, H, W], their numbers int64 [T], and what a processor must know of them
Decoded = tuple[torch.Tensor, np.ndarray, dict[str, Any]]

IGNORED_LABEL = -100  # what cross-entropy passes over
_SKIPPED, _EPOCH, _FIRST = range(3)  # in shared memory; the epoch is -1 until it is told


class FrameSelectionCollator:
    """Samples -> ``{"pixel_values": [B, T, C, H, W], "labels": [B], "frame_indices": [B, T]}``, T = ``num_frames``.

    A sample is a mapping with a video and (maybe) a label, or a pair (video, label). A video is a path, bytes,
    `datasets.Video` decoded or not, a torchcodec decoder, a uint8 tensor [T, C, H, W], or a list of PIL images.

    Args:
        selector: a `FramePolicy` or any `FrameSelector`.
        num_frames: T, what the model expects.
        processor: a Hugging Face video processor; it names the tensor (``pixel_values_videos`` for some models). It
            is told not to sample frames itself, and which frames of how many these are, at how many a second.
            Without one, frames become float32 in [0, 1] and must be of one size.
        video: the sample's key of the video.
        label: the sample's key of the label; samples without it give no ``"labels"``.
        encoder: features of frames (`FrameEncoder`), if the selector reads them; default: the policy's own, or
            thumbnails.
        candidates: at most this many frames are looked at, evenly spread over the clip; for selectors that read
            features. It bounds memory and time, however long the video.
        distinct: of a `FramePolicy`: T different frames of every clip that has as many. Without it the search may
            choose a frame several times, as in the thesis; for models that look at motion, True is what you want.
        short: a clip with fewer than T frames: ``"repeat"`` its last frame, or ``"error"``.
        on_error: a video that cannot be read: ``"raise"``, or ``"skip"``: another sample of the batch takes its place
            with the label -100, so that the batch stays whole and the loss passes over it; a warning gives the count,
            and ``skipped`` counts on (over all workers). Where labels are not whole numbers (several a sample, shares,
            targets of a regression), a loss does not pass over -100: there the other sample keeps its own label, and
            counts twice. A batch without any readable video is an error, because a loss over no labels is not a number.
        backend: how to read files: ``"auto"``, ``"torchcodec"`` or ``"pyav"``.
        cache_dir: keep features here, one file a clip; the encoder must have a ``digest()``, and videos must not be
            bare torchcodec decoders, which do not say what file they read (those of `datasets.Video()` do).
        seed: for selectors that draw.

    Warns:
        NoEffectWarning: a clip is drawn from again, but `set_epoch` was never called: it gets the same frames.

    Raises:
        PolicyError: the policy's features are not the encoder's.
        VideoError: a video cannot be read (``on_error="raise"``), or no video of a batch can.
    """

    epoch_reaches_workers = True  # by shared memory

    def __init__(
        self,
        selector: FramePolicy | FrameSelector,
        num_frames: int,
        processor: Callable[..., Any] | None = None,
        *,
        video: str = "video",
        label: str = "label",
        encoder: FrameEncoder | None = None,
        candidates: int = 256,
        distinct: bool = False,
        short: str = "repeat",
        on_error: str = "raise",
        backend: str = "auto",
        cache_dir: PathOrStr | None = None,
        seed: int = 0,
    ) -> None:
        if isinstance(selector, FramePolicy):
            own = selector.pixel_encoder()
            if encoder is None and own is None:
                raise PolicyError("encoder=None: the policy was searched with an encoder of your own; pass it")
            if encoder is not None:
                selector.check(encoder=encoder)
            if num_frames > selector.num_frames:
                warnings.warn(
                    f"num_frames={num_frames}: the policy was searched for {selector.num_frames} frames of a clip; "
                    "more than that were never looked for together",
                    stacklevel=2,
                )
            selector, encoder = selector.selector(distinct=distinct), own if encoder is None else encoder
        elif distinct:
            raise ValueError("distinct=True: is for a FramePolicy; a FrameSelector decides itself, leave it out")
        if not isinstance(selector, FrameSelector):
            raise TypeError(
                f"selector={selector!r}: must be a FramePolicy or a FrameSelector; load a saved policy by "
                "tamis.load_policy(folder)"
            )
        self.selector, self.processor = selector, processor
        self.num_frames = check_int("num_frames", num_frames, low=1)
        self.video, self.label = video, label
        self.encoder: FrameEncoder = PixelEncoder.pixels() if encoder is None else encoder
        self.candidates = check_int("candidates", candidates, low=num_frames)
        self.short = check_choice("short", short, ("repeat", "error"))
        self.on_error = check_choice("on_error", on_error, ("raise", "skip"))
        self.backend = check_choice("backend", backend, BACKENDS)
        self.cache = None if cache_dir is None else FeatureCache(cache_dir, self.encoder)
        self.seed = check_seed(seed)
        self._shared = torch.tensor([0, -1, 0])
        self._shared.share_memory_()  # type: ignore[no-untyped-call]  # with all workers

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shared.share_memory_()  # type: ignore[no-untyped-call]

    def __call__(self, samples: Sequence[Any]) -> dict[str, Any]:
        videos, labels = zip(*(self._split(sample) for sample in samples), strict=True)
        done: list[Decoded | None] = []
        problems = []
        for number, source in enumerate(videos):
            try:
                done.append(self._clip(source, f"number {number} of the batch"))
            except VideoError as error:
                if self.on_error == "raise":
                    raise
                problems.append(str(error))
                done.append(None)
        good = [clip for clip in done if clip is not None]
        if not good:
            raise VideoError(
                f"no video of the batch can be read: {'; '.join(problems)}; on_error='skip' needs one that can in each "
                "batch: use a larger batch size (1 cannot skip), or take these files out of the data"
            )
        if problems:
            self._shared[_SKIPPED] += len(problems)
            warnings.warn(
                f"FrameSelectionCollator: skipped {len(problems)} of {len(done)} videos: {'; '.join(problems)}",
                stacklevel=2,
            )
        clips = [clip or good[0] for clip in done]
        batch = self._pixels([clip[0] for clip in clips], [clip[2] for clip in clips])
        batch["frame_indices"] = torch.from_numpy(np.stack([clip[1] for clip in clips]))
        if all(label is not None for label in labels):
            batch["labels"] = _label_tensor(labels, done)
        return batch

    @property
    def skipped(self) -> int:
        """Videos skipped so far, by this collator and its copies in workers."""
        return int(self._shared[_SKIPPED])

    @property
    def epoch(self) -> int:
        """The epoch that draws depend on, 0 until it is told."""
        return max(0, int(self._shared[_EPOCH]))

    def set_epoch(self, epoch: int) -> None:
        """Another draw for selectors that draw, also in workers that are running; call it before each epoch."""
        self._shared[_EPOCH] = check_int("epoch", epoch, low=0)

    def select(self, source: VideoSource) -> np.ndarray:
        """The frames of one video: int64 [T], sorted, numbers of the file's own frames."""
        with closing(open_video(source, backend=self.backend)) as clip:
            view, places = self.view(clip, source)
            frames: np.ndarray = places[self.selector.select(view, self.num_frames)]
            return frames

    def plot(self, source: VideoSource, path: PathOrStr | None = None) -> Figure:
        """A contact sheet of one video: chosen frames, uniform ones, and the selector's score over time.

        Args:
            source: the video.
            path: also write the picture there; the ending chooses the format.

        Raises:
            VideoError: it cannot be read.
            ImportError: matplotlib is not installed.
        """
        from tamis.transforms.frames.plot import contact_sheet

        with closing(open_video(source, backend=self.backend)) as clip:
            view, places = self.view(clip, source)
            chosen = places[self.selector.select(view, self.num_frames)]
            uniform = UniformFrames().select(ClipView(clip.num_frames), self.num_frames)
            return contact_sheet(clip, chosen, uniform, places, self.selector.scores(view), path)

    def view(self, clip: VideoFrames, source: VideoSource) -> tuple[ClipView, np.ndarray]:
        """What the selector sees of an open video.

        Args:
            clip: the video, open.
            source: what it was opened from, by which draws and cached features are named.

        Returns:
            The view, and the frame number of each candidate: int64 [m].
        """
        total = clip.num_frames
        key = (self.seed, self.epoch, clip_number(source)) if self.selector.draws else (0,)
        if not self.selector.needs_features:
            return ClipView(total, None, clip.times, key), np.arange(total)
        count = min(total, self.candidates)
        places = (2 * np.arange(count, dtype=np.int64) + 1) * total // (2 * count)
        times = None if clip.times is None else clip.times[places]
        return ClipView(count, self._features(clip, places, source), times, key), places

    def _clip(self, source: VideoSource, name: str) -> Decoded:
        with closing(open_video(source, name, backend=self.backend)) as clip:
            if clip.num_frames < self.num_frames and self.short == "error":
                raise VideoError(
                    f"FrameSelectionCollator(num_frames={self.num_frames}): video {clip.name} has {clip.num_frames} "
                    f"frames; num_frames must be <= {clip.num_frames}, or pass short='repeat'"
                )
            view, places = self.view(clip, source)
            frames = places[self.selector.select(view, self.num_frames)]
            if self.selector.draws and view.size >= self.num_frames:  # all frames of a shorter clip are taken
                self._check_told(view.key[-1])
            pixels = clip.frames(frames)
            return pixels, frames, clip.metadata(frames, pixels.shape[-2], pixels.shape[-1])

    def _check_told(self, clip: int) -> None:
        """Warn once if the first clip that was drawn from comes again, and nobody ever told the epoch."""
        if self._shared[_EPOCH] >= 0:
            return
        if self._shared[_FIRST] == 0:
            self._shared[_FIRST] = clip
        elif self._shared[_FIRST] == clip:
            self._shared[_FIRST] = -1
            warnings.warn(
                "FrameSelectionCollator: draws the same frames of a clip each time: set_epoch was never called; "
                "call it before each epoch (tamis.callbacks.attach(trainer, collate) does), or once with "
                "0 if that is what you want",
                NoEffectWarning,
                stacklevel=4,
            )

    def _features(self, clip: VideoFrames, places: np.ndarray, source: VideoSource) -> np.ndarray:
        """The encoder's features of the candidates, from the cache if they are there."""
        if self.cache is None:
            return encode_frames(self.encoder, clip, places)
        return self.cache.features(clip, places, source)

    def _pixels(self, clips: list[torch.Tensor], metadata: list[dict[str, Any]]) -> dict[str, Any]:
        if self.processor is not None:
            return dict(self.processor(clips, return_tensors="pt", **_chosen_already(self.processor, metadata)))
        if len({clip.shape for clip in clips}) > 1:
            raise TamisError("processor=None: the videos differ in size; pass a processor that resizes them")
        return {"pixel_values": torch.stack(clips).float() / 255}

    def _split(self, sample: object) -> tuple[Any, Any]:
        if isinstance(sample, Mapping):
            if self.video not in sample:
                raise KeyError(
                    f"video={self.video!r}: the sample has {sorted(sample)}; pass video=, and to TrainingArguments "
                    "remove_unused_columns=False"
                )
            return sample[self.video], sample.get(self.label)
        if isinstance(sample, (tuple, list)) and len(sample) == 2:
            return sample[0], sample[1]
        raise TypeError(f"sample: must be a mapping or a pair (video, label), got {type(sample).__name__}")


def _chosen_already(processor: object, metadata: list[dict[str, Any]]) -> dict[str, Any]:
    """Keywords that keep a video processor of transformers from choosing among the frames again.

    Many would (``do_sample_frames=True`` by default), and would take the frames for a whole clip of 24 per second.
    """
    known = getattr(getattr(processor, "valid_kwargs", None), "__annotations__", {})
    options = {"do_sample_frames": False, "video_metadata": metadata}
    return {name: value for name, value in options.items() if name in known}


def _label_tensor(labels: Sequence[Any], done: Sequence[Decoded | None]) -> torch.Tensor:
    """The labels [B, ...]; where a video could not be read `IGNORED_LABEL`, or the label of what took its place.

    Args:
        labels: numbers, or lists, arrays or tensors of one shape.
        done: the clips, None where it could not be read; not all are.
    """
    plain = [int(label) if isinstance(label, np.integer) else label for label in labels]
    rows = [torch.as_tensor(label) for label in plain]
    whole = all(row.dim() == 0 and not row.is_floating_point() for row in rows)
    good = next(number for number, clip in enumerate(done) if clip is not None)
    if any(row.dim() for row in rows):
        return torch.stack([rows[good] if clip is None else row for row, clip in zip(rows, done, strict=True)])
    instead = IGNORED_LABEL if whole else plain[good]
    return torch.tensor([instead if clip is None else label for label, clip in zip(plain, done, strict=True)])
