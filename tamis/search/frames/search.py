"""Search-Map-Search, the two stages that need labels: which frames were best, and how to tell from the features.

M. Zhao et al., "Search-Map-Search: A Frame Selection Paradigm for Action Recognition", CVPR 2023 (chapter 5 of
M. Zhao's thesis): Algorithm 4 (`clips.search_clip`, stage 1) and Eq. (5.4) (`training.train_map`, stage 2). Stage 3
and the policy are in `tamis.transforms.frames.policy`, Guided Local Search in `tamis.optimizers.guided_local_search`.

======= ================= ==================================================================================
symbol  here              meaning
======= ================= ==================================================================================
M       `FrameModel`      frames alone -> logits, averaged over the chosen frames (TSN)
K       ``clip_length``   frames of a clip, 30: the coarse pieces that are searched first
C_k     clips             consecutive frames; the last may be shorter; the averaged logits stand for a clip
S_k     ``allowed``       the frames of clip C_k, all that position k may take
h*      the target        mean feature of the best combination, with which the map is trained
======= ================= ==================================================================================

**Deviations**: M is fitted on other videos than those it is asked about (``folds`` models); the thesis searches the
videos M was trained on, whose losses are near 0 everywhere. M's logits are weighted by the time of the frame
(`frames.models.time_weights`): a weak M is confident by chance where nothing is to be seen, and an argmin over its
losses finds just those frames. A frame of next to no weight is no candidate of stage 1: it is harmless, hence often
chosen, and would pull the target away from what is to be seen. Both searches of Algorithm 4 start as the thesis says
(cheapest clip n times; then random frames), each with half the budget; the frame search's random start is one of its
``restarts`` (best kept), because one random start decides too much where a clip has few good frames.

**Unstated**: how many folds (5); optimizer, rate and epochs of the map, see `MapConfig`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch

from tamis.core.distributed import broadcast_object, parallel_map, rank
from tamis.core.progress import progress_bar
from tamis.core.rng import seed_of
from tamis.core.types import PathOrStr, VideoSource
from tamis.policy.base import DataInfo, fingerprint
from tamis.search.frames.clips import decided, search_clip
from tamis.search.frames.config import FramesConfig
from tamis.search.frames.inputs import checked_labels, checked_logits, keep, read_features
from tamis.search.frames.models import Fit, fit_frame_model, model_forwards, weighted_logits
from tamis.search.frames.training import MapConfig, MapResult, train_map
from tamis.search.frames.unseen import compare_with_uniform, warn_if_no_better
from tamis.search.journal import Journal, Record
from tamis.search.run import SearchRun
from tamis.transforms.frames.encoder import FrameEncoder, PixelEncoder
from tamis.transforms.frames.policy import FramePolicy, clip_features

__all__ = ["MapConfig", "search_clip", "search_frames"]

_CHUNK = 32  # clips searched between two writes to the journal


def search_frames(
    videos: Sequence[VideoSource],
    labels: Sequence[int] | np.ndarray,
    num_frames: int = 8,
    *,
    encoder: FrameEncoder | str | None = None,
    centred: bool = False,
    logits: Sequence[np.ndarray] | None = None,
    fit: Fit = fit_frame_model,
    folds: int = 5,
    clip_length: int = 30,
    budget: int = 3000,
    restarts: int = 2,
    candidates: int = 256,
    time_waves: int = 4,
    time_weight: float = 1.0,
    time_bins: int = 15,
    time_rounds: int = 2,
    map_config: MapConfig | None = None,
    seed: int = 0,
    out: PathOrStr | None = None,
) -> FramePolicy:
    """Learn to choose frames from videos with labels.

    With several processes, call it on all of them: features, models and clips are dealt out, and all get the same
    policy. Interrupted with ``out``, it goes on: features and logits are kept there, stage 1 is journaled. Logits by a
    ``fit`` of yours are not kept, since nobody can tell when it changes: it must give the same ones again.

    Args:
        videos: what `tamis.transforms.open_video` takes, or features already: float arrays [m, d].
        labels: class of each video, an integer 0 .. C - 1; every class needs two videos, unless ``logits`` are given.
        num_frames: n.
        encoder: features of frames; default ``"pixels"``: `PixelEncoder` fitted on the videos and stored in the
            policy; ``"motion"``: so is `MotionEncoder`. Others: `TimmEncoder`, `HFEncoder`, or one of yours. Not for
            features. `compare_encoders` says which tells most. With ``out`` it must have a ``digest()`` that changes
            with its weights.
        centred: the default encoder subtracts each clip's own mean frame: for a fixed camera, see `PixelEncoder`.
        logits: out-of-fold logits of each video's frames, [m, C], if you have a model; else ``fit`` makes them.
        fit: (features, labels, seed) -> model of single frames, one for each fold; seed < 2**32.
        folds: number of models; each is asked only about videos it was not fitted on.
        clip_length: K.
        budget: most evaluations a video in stage 1, and a clip in stage 3.
        restarts: random starts of the frame search.
        candidates: at most this many frames of a video, evenly spread.
        time_waves: of relative time in a feature, see `FramePolicy`.
        time_weight: its weight.
        time_bins: parts of a clip whose frames' logits are weighted by how much they tell
            (`frames.models.time_weights`; not those of ``logits`` of yours), and frames whose logits tell next to
            nothing are no candidates of stage 1 (of all logits); 0: neither.
        time_rounds: how often the models are fitted; from the second round on, on frames drawn by the weights of the
            round before. Only for the default ``fit`` and ``time_bins`` > 0.
        map_config: stage 2.
        seed: of folds, models, starts and map.
        out: folder for policy, journal and what is kept.

    Raises:
        ValueError: lengths, labels or an option out of range; the message says which.
        TypeError: ``out``, and the encoder has no ``digest()``, or a video is a decoder of an unknown file.
        VideoError: a video cannot be read.

    Warns:
        NoEffectWarning: on the clips that the map was not trained on (``map_config.held_out``; 8 or more) the frames it
            chooses are not better than uniform ones, see `frames.unseen`.
    """
    config = FramesConfig(
        num_frames=num_frames, centred=centred, folds=folds, clip_length=clip_length, budget=budget, restarts=restarts,
        candidates=candidates, time_waves=time_waves, time_weight=time_weight, time_bins=time_bins,
        time_rounds=time_rounds, map_config=MapConfig() if map_config is None else map_config, seed=seed,
    )  # fmt: skip
    labels = checked_labels(labels, len(videos), folds, fitted=logits is None)
    known = {"telling": time_bins > 0, "labels": fingerprint(labels)}
    with SearchRun("frames", config, out, data=known) as run:
        return _search(run, config, videos, labels, encoder, logits, fit)


def _search(
    run: SearchRun,
    config: FramesConfig,
    videos: Sequence[VideoSource],
    labels: np.ndarray,
    encoder: FrameEncoder | str | None,
    logits: Sequence[np.ndarray] | None,
    fit: Fit,
) -> FramePolicy:
    """All stages; on every rank the same policy."""
    features, encoder = read_features(
        videos, encoder, config.candidates, run.folder, config.seed, centred=config.centred
    )
    forwards = 0
    if logits is None:
        logits, forwards = _logits(features, labels, fit, config, run.folder)
    logits = checked_logits(logits, features, labels)
    records = _search_all(logits, labels, run.open(data=fingerprint(logits)), config)
    chosen = [np.array(record["frames"]) for record in records]
    policy, result = _mapped(features, chosen, encoder, config)
    unseen = compare_with_uniform(policy.selector(), features, logits, labels, result.held, config.num_frames)
    evaluations = sum(record["evaluations"] for record in records)
    # a sample is one frame, through a frame model or through the map
    budget = {
        "evaluations": evaluations + unseen.evaluations,
        "sample_forwards": forwards + result.forwards + unseen.forwards,
    }
    policy = replace(policy, search=run.info(result.score, budget, **unseen.facts()))
    if rank() == 0:
        warn_if_no_better(unseen)
    return run.finish(policy)


def _logits(
    features: list[np.ndarray], labels: np.ndarray, fit: Fit, config: FramesConfig, folder: Path | None
) -> tuple[list[np.ndarray], int]:
    """Out-of-fold logits, those kept in ``folder`` if it has them, and the frames they cost."""
    folds, seed, bins, rounds = config.folds, config.seed, config.time_bins, config.time_rounds
    own = fit is not fit_frame_model
    found = keep(
        None if own else folder,  # nobody can tell when a function of the user's changes
        "logits",
        fingerprint(features, labels, folds, seed, bins, rounds),
        lambda: weighted_logits(features, labels, fit=fit, folds=folds, seed=seed, bins=bins, rounds=rounds),
    )
    return found, model_forwards(features, folds, rounds if bins else 1, trained=not own)


def _mapped(
    features: list[np.ndarray], chosen: list[np.ndarray], encoder: FrameEncoder | None, config: FramesConfig
) -> tuple[FramePolicy, MapResult]:
    """Stage 2: the policy whose map was trained on the frames that stage 1 chose."""
    mean, std = _standard(features)
    rows = [clip_features(f, mean, std, config.time_waves, config.time_weight) for f in features]
    targets = [r[c].mean(0) for r, c in zip(rows, chosen, strict=True)]
    trained = train_map(rows, targets, config.map_config, seed=config.seed) if rank() == 0 else None
    result = cast(MapResult, broadcast_object(trained))
    own = encoder if isinstance(encoder, PixelEncoder) else None
    policy = FramePolicy(
        num_frames=config.num_frames,
        feature_size=features[0].shape[1],
        map=config.map_config.kind,
        width=config.map_config.width,
        time_waves=config.time_waves,
        time_weight=config.time_weight,
        budget=config.budget,
        thumbnail=own.size if own else (0, 0),
        neighbours=own.neighbours if own else 0,
        centred=own.centred if own else False,
        piece=own.piece if own else (0, 0),
        context=own.context if own else (),
        encoder_digest="" if own else getattr(encoder, "digest", str)(),
        weights=result.weights,
        scale={"mean": torch.from_numpy(mean).float(), "std": torch.from_numpy(std).float()},
        encoder={"mean": own.mean, "components": own.components} if own else {},
        profile=_profile(chosen, [len(f) for f in features]),
        data=DataInfo(n=len(features)),
    )
    return policy, result


def _standard(features: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of all frames' features, [d] each; 1 where a feature hardly varies."""
    stacked = np.concatenate(features)
    std = stacked.std(0)
    return stacked.mean(0), np.where(std > 1e-6 * max(float(std.max()), 1e-12), std, 1.0)


def _search_all(
    logits: Sequence[np.ndarray], labels: np.ndarray, journal: Journal, config: FramesConfig
) -> list[Record]:
    """Stage 1: the records of all videos; those that the journal lacks are spread over the processes."""

    def one(number: int) -> Record:
        rows = logits[number]
        allowed = decided(rows) if config.time_bins else np.arange(len(rows))
        chosen, cost, spent = search_clip(
            rows[allowed], int(labels[number]), config.num_frames, clip_length=config.clip_length,
            budget=config.budget, restarts=config.restarts, seed=seed_of(config.seed, 4, number),
        )  # fmt: skip
        return {"trial": number, "frames": allowed[chosen].tolist(), "score": -cost, "evaluations": spent}

    missing = [i for i in range(len(labels)) if i not in journal.records]
    with progress_bar(total=len(labels), desc="frames: search") as bar:
        bar.update(len(labels) - len(missing))
        for at in range(0, len(missing), _CHUNK):
            journal.append(parallel_map(one, missing[at : at + _CHUNK]))
            bar.set_postfix(loss=f"{-np.mean([record['score'] for record in journal.records.values()]):.3g}")
            bar.update(len(missing[at : at + _CHUNK]))
    return [journal.records[i] for i in range(len(labels))]


def _profile(chosen: list[np.ndarray], sizes: list[int]) -> torch.Tensor:
    """Share of the chosen frames in each hundredth of their clips: float32 [100], sum 1."""
    places = np.concatenate([(frames + 0.5) / size for frames, size in zip(chosen, sizes, strict=True)])
    counts = np.bincount((places * 100).astype(np.int64), minlength=100)
    return torch.from_numpy(counts / counts.sum()).float()
