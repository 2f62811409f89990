"""What Search-Map-Search starts from: labels that can be learnt, features of every video, and what is kept of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tamis.core.checks import check_choice, check_int, check_type
from tamis.core.distributed import broadcast_object, parallel_map, rank
from tamis.core.files import write_tensors
from tamis.core.progress import progress_bar
from tamis.core.rng import numpy_generator
from tamis.core.types import VideoSource
from tamis.policy.base import fingerprint
from tamis.transforms.frames.encoder import FrameEncoder, MotionEncoder, PixelEncoder
from tamis.transforms.frames.identity import clip_identity
from tamis.transforms.frames.video import open_video

__all__ = ["checked_labels", "checked_logits", "keep", "read_features"]

_CHUNK = 32  # clips read between two steps of the progress bar
#: Encoders that a search fits itself: name -> (class, size at which frames are read, clips that it is fitted on).
_FITTED: dict[str, tuple[type[PixelEncoder], tuple[int, int], int]] = {
    "pixels": (PixelEncoder, (32, 48), 200),
    "motion": (MotionEncoder, (96, 120), 100),
}


def checked_labels(labels: Iterable[object], count: int, folds: int, *, fitted: bool) -> np.ndarray:
    """``labels`` as int64 [count].

    Args:
        labels: one integer a video: a list (of numbers or 0-d tensors), an array, a tensor, a data set's column.
        count: number of videos.
        folds: number of models.
        fitted: models are to be fitted, so every class needs videos inside and outside of a fold.

    Raises:
        TypeError: no list at all.
        ValueError: something else; the message says what it is and how to make labels of it.
    """
    check_type("labels", labels, Iterable, "one integer a video, e.g. a list")
    listed = labels.tolist() if isinstance(labels, (np.ndarray, torch.Tensor)) else labels
    array = np.array([_number(i, label) for i, label in enumerate(listed)])
    if len(array) != count:
        raise ValueError(f"labels: got {len(array)} for {count} videos; must be one a video, in the videos' order")
    check_int("folds", folds, low=2, high=max(2, count))
    if count < 2 * folds:
        raise ValueError(f"videos={count}: must be at least {2 * folds}, two for each of {folds} folds")
    classes, sizes = np.unique(array, return_counts=True)
    if len(classes) < 2:
        raise ValueError("labels: all videos have the same label; there is nothing to tell apart")
    if fitted and len(classes) != classes[-1] + 1:
        gap = int(np.setdiff1d(np.arange(len(classes) + 1), classes)[0])
        raise ValueError(
            f"labels: no video is of class {gap}, but there is class {classes[-1]}; number the {len(classes)} classes "
            "0 .. C - 1 without gaps: names, labels = np.unique(labels, return_inverse=True)"
        )
    if fitted and sizes.min() < 2:
        raise ValueError(
            f"labels: class {classes[sizes.argmin()]} has one video; must be at least two, because a video is asked "
            "about by a model that did not see it; leave the class out, or find more videos of it"
        )
    return array.astype(np.int64)


def _number(at: int, label: object) -> int:
    """One label, an integer >= 0."""
    label = label.item() if isinstance(label, torch.Tensor) and not label.ndim else label
    if isinstance(label, str):
        cure = "encode the names: names, labels = np.unique(labels, return_inverse=True)"
    elif isinstance(label, (list, tuple, np.ndarray, torch.Tensor)):
        rows = "one-hot rows or probabilities become classes by np.argmax(labels, axis=1)"
        cure = "flatten them: np.ravel(labels)" if len(label) == 1 else rows
    elif isinstance(label, (bool, np.bool_, float, np.floating)):
        cure = "turn whole numbers into integers: np.asarray(labels).astype(int)"
    elif not isinstance(label, (int, np.integer)) or label < 0:
        cure = "leave videos without a label out"
    else:
        return int(label)
    shown = f"{type(label).__name__}" if hasattr(label, "__len__") and not isinstance(label, str) else repr(label)
    raise ValueError(f"labels[{at}]={shown}: must be an integer >= 0, the class of the video; {cure}")


def checked_logits(logits: Sequence[Any], features: list[np.ndarray], labels: np.ndarray) -> list[np.ndarray]:
    """Logits of the user's own model as float64 [m, C] of each video.

    Args:
        logits: of each video, [m, C].
        features: of each video, [m, d].
        labels: int [V].

    Raises:
        ValueError: other shapes than the features', fewer classes than labels, or a value that is not finite.
    """
    arrays = [np.asarray(rows, dtype=np.float64) for rows in logits]
    if [rows.shape[:1] for rows in arrays] != [rows.shape[:1] for rows in features]:
        raise ValueError("logits: must be one array [m, C] a video, with a row for each candidate frame")
    if any(rows.ndim != 2 or rows.shape[1] != arrays[0].shape[1] for rows in arrays):
        raise ValueError("logits: must be [m, C] of each video, with the same C")
    if arrays[0].shape[1] <= labels.max():
        raise ValueError(f"logits: have {arrays[0].shape[1]} classes, but there is a label {labels.max()}")
    wrong = [i for i, rows in enumerate(arrays) if not np.isfinite(rows).all()]
    if wrong:
        raise ValueError(f"logits[{wrong[0]}]: must be finite")
    return arrays


def _given_features(videos: Sequence[VideoSource], encoder: FrameEncoder | str | None) -> list[np.ndarray]:
    """Videos that came as features, checked."""
    if encoder is not None:
        raise ValueError("encoder: the videos are features already; leave it out")
    arrays = [np.asarray(video, dtype=np.float64) for video in videos]
    wrong = [i for i, a in enumerate(arrays) if a.shape[1:] != arrays[0].shape[1:] or not np.isfinite(a).all()]
    if wrong or not all(len(array) for array in arrays):
        raise ValueError(f"videos[{wrong[:1] or '?'}]: features must be finite [m, {arrays[0].shape[1]}], m >= 1")
    return arrays


def read_features(
    videos: Sequence[VideoSource],
    encoder: FrameEncoder | str | None,
    candidates: int,
    kept: Path | None,
    seed: int,
    *,
    centred: bool = False,
) -> tuple[list[np.ndarray], FrameEncoder | None]:
    """Features of all videos, [m, d] each; the encoder they are by, None if they came as features.

    Args:
        videos: as `search_frames`.
        encoder: as `search_frames`.
        candidates: as `search_frames`.
        kept: folder for the features, or None.
        seed: as `search_frames`.
        centred: as `search_frames`.

    Raises:
        ValueError, TypeError, VideoError: as `search_frames`.
    """
    if isinstance(videos[0], np.ndarray) and videos[0].ndim == 2:
        return _given_features(videos, encoder), None
    named = "pixels" if encoder is None else encoder
    if centred and named != "pixels":
        raise ValueError("centred=True: is for the default encoder; pass encoder=PixelEncoder.fit(..., centred=True)")
    if isinstance(named, str):
        check_choice("encoder", named, tuple(_FITTED))

    def read(number: int, size: tuple[int, int]) -> torch.Tensor:
        with closing(open_video(videos[number], f"number {number}")) as clip:
            count = min(clip.num_frames, candidates)
            places = (2 * np.arange(count, dtype=np.int64) + 1) * clip.num_frames // (2 * count)
            return clip.frames(places, size)

    model: Any = named
    names = [] if kept is None else _names(videos, named)
    if isinstance(named, str):
        kind, size, most = _FITTED[named]
        few = numpy_generator(seed, 3).permutation(len(videos))[:most]
        clips = parallel_map(lambda i: read(int(i), size), list(few))
        model = kind.fit(clips, centred=True) if centred else kind.fit(clips)

    def encode(number: int) -> np.ndarray:
        with torch.inference_mode():
            return torch.as_tensor(model(read(number, model.size))).double().cpu().numpy()

    digest = "" if kept is None else fingerprint(names, candidates, model.digest())
    with progress_bar(total=len(videos), desc="frames: features") as bar:

        def all_features() -> list[np.ndarray]:
            found = []
            for at in range(0, len(videos), _CHUNK):
                found += parallel_map(encode, list(range(at, min(at + _CHUNK, len(videos)))))
                bar.update(_CHUNK)
            return found

        return keep(kept, "features", digest, all_features), model


def _names(videos: Sequence[VideoSource], encoder: FrameEncoder | str) -> list[str]:
    """What tells whether features that were kept are of these videos."""
    if not isinstance(encoder, str) and not hasattr(encoder, "digest"):
        raise TypeError("out: the encoder has no digest(); give it one that changes with its weights, or leave out out")
    names = []
    for number, video in enumerate(videos):
        identity = clip_identity(video)
        if identity is None:
            raise TypeError(
                f"out: videos[{number}] is a decoder, which does not say what file it reads; pass paths or bytes, or "
                "leave out out"
            )
        names.append(identity.hex())
    return names


def keep(folder: Path | None, name: str, digest: str, make: Callable[[], list[np.ndarray]]) -> list[np.ndarray]:
    """What ``make`` gives, or what it gave under the same digest and was kept in ``folder``.

    Args:
        folder: None keeps nothing.
        name: of the file.
        digest: of all that the arrays depend on.
        make: called on every rank if there is no such file, or one of another digest.
    """
    from safetensors import safe_open

    path = None if folder is None else folder / f"{name}.safetensors"
    found = None
    if path is not None and rank() == 0 and path.exists():
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("digest") == digest:
                found = [file.get_tensor(f"{i:07d}").numpy() for i in range(len(file.keys()))]
    found = broadcast_object(found)
    if found is None:
        found = make()
        if path is not None and rank() == 0:
            tensors = {f"{i:07d}": torch.from_numpy(np.ascontiguousarray(rows)) for i, rows in enumerate(found)}
            write_tensors(path, tensors, {"digest": digest})
    return found
