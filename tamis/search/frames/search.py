"""Search-Map-Search, the two stages that need labels: which frames were best, and how to tell from the features.

M. Zhao et al., "Search-Map-Search: A Frame Selection Paradigm for Action Recognition", CVPR 2023 (chapter 5 of
M. Zhao's thesis): Algorithm 4 (`search_clip`, stage 1) and Eq. (5.4) (`frames_training.train_map`, stage 2). Stage 3
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
(`frames_models.time_weights`): a weak M is confident by chance where nothing is to be seen, and an argmin over its
losses finds just those frames. A frame of next to no weight is no candidate of stage 1: it is harmless, hence often
chosen, and would pull the target away from what is to be seen. Both searches of Algorithm 4 start as the thesis says
(cheapest clip n times; then random frames), each with half the budget; the frame search's random start is one of its
``restarts`` (best kept), because one random start decides too much where a clip has few good frames.

**Unstated**: how many folds (5); optimizer, rate and epochs of the map, see `frames_training.MapConfig`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from tamis.core.checks import check_int, check_type
from tamis.core.distributed import broadcast_object, parallel_map, rank
from tamis.core.progress import progress_bar
from tamis.core.rng import check_seed, numpy_generator, seed_of
from tamis.optimizers.frame_costs import GLSConfig, MeanLogitObjective, guided_local_search
from tamis.policy.base import DataInfo, SearchInfo, fingerprint
from tamis.search.frames.inputs import checked_labels, checked_logits, keep, read_features
from tamis.search.frames.models import Fit, fit_frame_model, model_forwards, weighted_logits
from tamis.search.frames.training import MapConfig, MapResult, train_map
from tamis.search.frames.unseen import compare_with_uniform, warn_if_no_better
from tamis.search.journal import Journal, refuse_other
from tamis.transforms.frames.encoder import FrameEncoder, PixelEncoder
from tamis.transforms.frames.policy import FramePolicy, clip_features

__all__ = ["MapConfig", "search_clip", "search_frames"]

_CHUNK = 32  # clips searched between two writes to the journal


def search_frames(
    videos: Sequence[Any],
    labels: Sequence[int] | np.ndarray,
    num_frames: int = 8,
    *,
    encoder: FrameEncoder | None = None,
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
    out: str | Path | None = None,
) -> FramePolicy:
    """Learn to choose frames from videos with labels.

    With several processes, call it on all of them: features, models and clips are dealt out, and all get the same
    policy. Interrupted with ``out``, it goes on: features and logits are kept there, stage 1 is journaled. Logits by a
    ``fit`` of yours are not kept, since nobody can tell when it changes: it must give the same ones again.

    Args:
        videos: what `tamis.transforms.open_video` takes, or features already: float arrays [m, d].
        labels: class of each video, an integer 0 .. C - 1; every class needs two videos, unless ``logits`` are given.
        num_frames: n.
        encoder: features of frames; default: `PixelEncoder` fitted on the videos and stored in the policy. Not for
            features. With ``out`` it must have a ``digest()`` that changes with its weights.
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
            (`frames_models.time_weights`; not those of ``logits`` of yours), and frames whose logits tell next to
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
            chooses are not better than uniform ones, see `frames_unseen`.
    """
    labels = checked_labels(labels, len(videos), folds, fitted=logits is None)
    check_int("num_frames", num_frames, low=1)
    check_int("clip_length", clip_length, low=1)
    check_seed(seed)
    check_int("time_bins", time_bins, low=0)
    check_int("time_rounds", time_rounds, low=1)
    map_config, kept = MapConfig() if map_config is None else map_config, None if out is None else Path(out)
    check_type("map_config", map_config, MapConfig, "a MapConfig, such as MapConfig(width=64), or None")
    options = {"num_frames": num_frames, "clip_length": clip_length, "budget": budget, "restarts": restarts}
    config = {
        "search": "frames", **options, "seed": seed, "telling": time_bins > 0, "labels": fingerprint(labels),
    }  # fmt: skip
    if kept is not None:
        refuse_other(kept / "journal.jsonl", config)
    features, encoder = read_features(videos, encoder, candidates, kept, seed, centred=centred)
    forwards = 0
    if logits is None:
        own_fit = fit is not fit_frame_model
        forwards = model_forwards(features, folds, time_rounds if time_bins else 1, trained=not own_fit)
        logits = keep(
            None if own_fit else kept,
            "logits",
            fingerprint(features, labels, folds, seed, time_bins, time_rounds),
            lambda: weighted_logits(
                features, labels, fit=fit, folds=folds, seed=seed, bins=time_bins, rounds=time_rounds
            ),
        )
    logits = checked_logits(logits, features, labels)
    config["data"] = fingerprint(logits)
    journal = Journal(None if kept is None else kept / "journal.jsonl", config)
    places = [_telling(rows) if time_bins else np.arange(len(rows)) for rows in logits]
    _search_all(logits, places, labels, journal, options, seed)
    chosen = [np.array(journal.records[i]["frames"]) for i in range(len(videos))]
    stacked = np.concatenate(features)
    std = stacked.std(0)
    mean, std = stacked.mean(0), np.where(std > 1e-6 * max(float(std.max()), 1e-12), std, 1.0)
    rows = [clip_features(f, mean, std, time_waves, time_weight) for f in features]
    targets = [r[c].mean(0) for r, c in zip(rows, chosen, strict=True)]
    trained = train_map(rows, targets, map_config, seed=seed) if rank() == 0 else None
    result = cast(MapResult, broadcast_object(trained))
    own = encoder if isinstance(encoder, PixelEncoder) else None
    policy = FramePolicy(
        num_frames=num_frames,
        feature_size=features[0].shape[1],
        map=map_config.kind,
        width=map_config.width,
        time_waves=time_waves,
        time_weight=time_weight,
        budget=budget,
        thumbnail=own.size if own else (0, 0),
        neighbours=own.neighbours if own else 0,
        centred=own.centred if own else False,
        weights=result.weights,
        scale={"mean": torch.from_numpy(mean).float(), "std": torch.from_numpy(std).float()},
        encoder={"mean": own.mean, "components": own.components} if own else {},
        profile=_profile(chosen, [len(f) for f in features]),
        data=DataInfo(n=len(videos)),
    )
    unseen = compare_with_uniform(policy.selector(), features, logits, labels, result.held, num_frames)
    evaluations = sum(journal.records[i]["evaluations"] for i in range(len(videos)))
    info = SearchInfo(
        seed=seed,
        # a sample is one frame, through a frame model or through the map
        budget={
            "evaluations": evaluations + unseen.evaluations,
            "sample_forwards": forwards + result.forwards + unseen.forwards,
        },
        score=result.score,
        config={**options, "folds": folds, "map": map_config.kind, **unseen.facts()},
    )
    policy = replace(policy, search=info)
    if rank() == 0:
        warn_if_no_better(unseen)
        if kept is not None:
            policy.save(kept)
    return policy


def search_clip(
    logits: np.ndarray,
    label: int,
    num_frames: int,
    *,
    clip_length: int = 30,
    budget: int = 3000,
    restarts: int = 2,
    seed: int = 0,
) -> tuple[np.ndarray, float, int]:
    """Stage 1 for one video, Algorithm 4: clips first, then frames inside the chosen clips.

    Args:
        logits: [m, C] of single frames, by a model that was not fitted on this video.
        label: y.
        num_frames: n.
        clip_length: K.
        budget: most evaluations, both searches together.
        restarts: random starts of the frame search, which share its budget.
        seed: of the starts.

    Returns:
        frames int64 [n] sorted, the loss L(M(frames), y), the evaluations spent.

    Raises:
        ValueError: the budget does not cover the losses of clips and frames.
    """
    objective = MeanLogitObjective(logits, label)
    size = objective.size
    clips = [np.arange(first, min(first + clip_length, size)) for first in range(0, size, clip_length)]
    if budget < 2 * (len(clips) + 1) + size + restarts:
        raise ValueError(
            f"budget={budget}: must be at least {2 * (len(clips) + 1) + size + restarts} for {size} frames"
        )
    coarse = MeanLogitObjective(np.stack([objective.logits[clip].mean(0) for clip in clips]), label)
    first = guided_local_search(coarse, num_frames, config=GLSConfig(budget=budget // 2 - size // 2))  # lines 1-3
    allowed = [clips[k] for k in first.frames]  # line 4
    alone = objective.costs(np.arange(size)[:, None])
    spent = first.evaluations + size
    best: tuple[np.ndarray, float] | None = None
    for restart in range(restarts):
        share = (budget - spent) // (restarts - restart)
        rng = numpy_generator(seed, restart)
        start = np.array([int(rng.choice(frames)) for frames in allowed])  # line 5
        found = guided_local_search(
            objective, num_frames, config=GLSConfig(budget=share), start=start, frame_costs=alone, allowed=allowed
        )  # line 6
        spent += found.evaluations
        if best is None or found.cost < best[1]:
            best = (found.frames, found.cost)
        if found.exact:
            break
    frames, cost = best if best is not None else (first.frames, first.cost)
    return frames, cost, spent


def _telling(logits: np.ndarray) -> np.ndarray:
    """Frames whose logits differ between the classes, at least a tenth as much as the most decided frame's."""
    spread = np.ptp(logits, axis=1)
    return np.flatnonzero(spread >= 0.1 * spread.max())


def _search_all(
    logits: Sequence[np.ndarray],
    places: list[np.ndarray],
    labels: np.ndarray,
    journal: Journal,
    options: dict[str, int],
    seed: int,
) -> None:
    """Stage 1 over all videos that the journal lacks, spread over the processes."""

    def one(number: int) -> dict[str, Any]:
        allowed = places[number]
        own = seed_of(seed, 4, number)
        chosen, cost, spent = search_clip(logits[number][allowed], int(labels[number]), seed=own, **options)
        chosen = allowed[chosen]
        return {"trial": number, "frames": chosen.tolist(), "score": -cost, "evaluations": spent}

    missing = [i for i in range(len(labels)) if i not in journal.records]
    with progress_bar(total=len(labels), desc="frames: search") as bar:
        bar.update(len(labels) - len(missing))
        for at in range(0, len(missing), _CHUNK):
            journal.append(parallel_map(one, missing[at : at + _CHUNK]))
            bar.set_postfix(loss=f"{-np.mean([record['score'] for record in journal.records.values()]):.3g}")
            bar.update(len(missing[at : at + _CHUNK]))


def _profile(chosen: list[np.ndarray], sizes: list[int]) -> torch.Tensor:
    """Share of the chosen frames in each hundredth of their clips: float32 [100], sum 1."""
    places = np.concatenate([(frames + 0.5) / size for frames, size in zip(chosen, sizes, strict=True)])
    counts = np.bincount((places * 100).astype(np.int64), minlength=100)
    return torch.from_numpy(counts / counts.sum()).float()
