"""`search_label_aware`: which augmentation suits which class.

Two searches behind one door: vetoes on a base that people use already (`vetoes`), and the thesis' policy of triples
("LA3: Efficient Label-Aware AutoAugment", Zhao et al., ECCV 2022; `triples`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from tamis.core.checks import check_choice, check_range
from tamis.core.types import MapDataset, PathOrStr
from tamis.optimizers.predictor import PredictorConfig
from tamis.search.label_aware.carry import carry_policy
from tamis.search.label_aware.config import SPACE, LabelAwareConfig, VetoConfig
from tamis.search.label_aware.data import class_names
from tamis.search.label_aware.reward import scaled
from tamis.search.label_aware.triples import build_policy, search_triples
from tamis.search.label_aware.vetoes import Fit, search_vetoes
from tamis.transforms.label_aware.menu_policy import MenuPolicy
from tamis.transforms.label_aware.policy import LabelAwarePolicy

__all__ = ["SPACE", "build_policy", "carry_policy", "search_label_aware"]

_BASES = ("randaugment", "trivialaugment", "triples")


def search_label_aware(
    model: nn.Module | Sequence[nn.Module],
    val_data: MapDataset | tuple[Tensor, Tensor] | Sequence[Any],
    *,
    base: str | None = None,
    trained_with: str | Sequence[str] | None = None,
    add: Sequence[str] | Mapping[str, float] = (),
    fit: Fit | None = None,
    trainings: float = 1.0,
    operations: int | None = None,
    magnitude: int | None = None,
    levels: Sequence[float] | None = None,
    margin: float | None = None,
    false_discovery: float | None = None,
    shrinkage: float | None = None,
    prepare: Callable[[Tensor], Tensor] = scaled,
    classes: Sequence[str] | None = None,
    batch_size: int = 256,
    seed: int = 0,
    out: PathOrStr | None = None,
    iterations: int | None = None,
    warmup: int | None = None,
    triples: int | None = None,
    alpha: float | None = None,
    reward: str | None = None,
    label_aware: bool | None = None,
    refit_every: int | None = None,
    candidates: Sequence[int] | None = None,
    parents: str | None = None,
    predictor: PredictorConfig | None = None,
    repeats: int | None = None,
) -> MenuPolicy | LabelAwarePolicy:
    """Find which operations each class must not get.

    Args:
        model: classifier trained on data without ``val_data``; gives logits. It is left as it was. Or a list of them,
            e.g. of a cross-validation, each with its own held-out part.
        val_data: images that the model was not trained on: a map-style data set of (image, label), PIL or uint8
            tensors of one size, or a pair of tensors (uint8 [N, C, H, W], integers [N]). For a list of models, a list
            with the part that was held out from each.
        base: ``"randaugment"`` (default) or ``"trivialaugment"``: vetoes on that augmentation; ``"triples"``: the
            thesis' policy.
        trained_with: what the model was trained with, because that decides who may judge what: ``"randaugment"``,
            names of groups (``"geometry"``, ``"colour"``, ``"inversion"``, ``"flip"``, ``"erasing"``) or of
            operations; () for none. Must be given with a base that has a menu.
        add: operations beside the base's own, e.g. ``["HorizontalFlip", "HalfTurn"]``, which are drawn like these;
            or a mapping to the chance of being applied by itself, as pipelines have it: ``{"HorizontalFlip": 0.5}``.
        fit: trains a judge without the groups that the model was trained with: ``fit(augment, fold, share)`` trains
            as the model (the ``fold``-th) was trained, with another augmentation, for that share of the epochs, and
            returns it. Needed to add an operation of a group that the model was trained with. Without it the
            base's own operations are judged by the model itself.
        trainings: what all such judges may cost together, in trainings of the model; > 0.
        operations: drawn for an image, of RandAugment: 2.
        magnitude: of RandAugment, 0..30: 9.
        levels: shares of the magnitude that are judged: (0.5, 1).
        margin: share of its probability that a class may lose under an operation: all of it under an added one, what is
            beyond the classes that it suits best under one of the base's own: 0.2.
        false_discovery: bound on the share of vetoes that are chance: 0.1.
        shrinkage: images' worth of trust that a class is not harmed: 5; for triples in the mean of all labels: 10.
        prepare: from uint8 [B, C, H, W] to the model's input, e.g. scaling and normalising.
        classes: class names in label order; default: the data set's own.
        batch_size: images a forward.
        seed: of everything drawn.
        out: folder for the journal and the policy. A search that finds its own journal there goes on from it.
        iterations: triples only, as all that follow: T, passes over the reward images, >= ``warmup``; 500.
        warmup: T_0, random ones among them, >= 1; 100.
        triples: N_cand, triples a label in the policy, 1..816; 100.
        alpha: weight of redundancy, >= 0; 2.5.
        reward: ``"recall"`` (the paper) or ``"probability"`` of the true class, less noisy with few images.
        label_aware: False searches one policy for all labels.
        refit_every: iterations from one training of the predictor to the next; 10.
        candidates: how many are mutated, unseen and explored, each time; (10, 50, 40).
        parents: what is mutated, ``"last"`` or ``"best"``.
        predictor: its hyper-parameters.
        repeats: passes an iteration, with other magnitudes; 1.

    Returns:
        The policy, with what it cost.

    Raises:
        ValueError: nobody can judge an operation, or an argument is out of range.
        TamisError: the journal in ``out`` is of another search; no class names can be found.

    Warns:
        FutureWarning: settings of triples without ``base="triples"``.
        NoEffectWarning: no triple changes any prediction.
        UserWarning: classes without images; a model that recognises nothing.
    """
    of_triples: dict[str, Any] = {
        "iterations": iterations, "warmup": warmup, "triples": triples, "alpha": alpha, "reward": reward,
        "label_aware": label_aware, "refit_every": refit_every, "parents": parents, "predictor": predictor,
        "repeats": repeats, "candidates": None if candidates is None else tuple(candidates),
    }  # fmt: skip
    of_menus: dict[str, Any] = {
        "operations": operations, "magnitude": magnitude, "margin": margin,
        "false_discovery": false_discovery, "levels": None if levels is None else tuple(map(float, levels)),
    }  # fmt: skip
    base = _base(base, of_triples)
    several = not isinstance(model, nn.Module)
    models: list[nn.Module] = list(model) if isinstance(model, (list, tuple)) else [model]  # type: ignore[list-item]
    parts: list[Any] = list(val_data) if several else [val_data]  # type: ignore[arg-type]
    if len(models) != len(parts) or not models:
        raise ValueError(f"val_data: {len(parts)} parts for {len(models)} models: must be the held-out part of each")
    names = class_names(parts[0], classes)
    shared = _given({"shrinkage": shrinkage, "batch_size": batch_size, "seed": seed})
    if base == "triples":
        _refuse("base='triples'", {**of_menus, "trained_with": trained_with, "add": add or None, "fit": fit})
        if len(models) > 1:
            raise ValueError(f"model: {len(models)} models: base='triples' judges with one")
        config = LabelAwareConfig(**_given(of_triples), **shared)
        return search_triples(models[0], parts[0], names, config, prepare=prepare, out=out)
    _refuse(f"base={base!r}", of_triples)
    if trained_with is None:
        raise ValueError(
            "trained_with: must say what the model was trained with, because that decides who may judge what: "
            "trained_with='randaugment', ['flip', 'colour'], or () for no augmentation"
        )
    chances = dict(add) if isinstance(add, Mapping) else dict.fromkeys([add] if isinstance(add, str) else add, 0.0)
    menu_config = VetoConfig(
        base=base, add=tuple(chances), chances=tuple(map(float, chances.values())), **_given(of_menus), **shared
    )
    return search_vetoes(
        models, parts, names, menu_config, trained_with=trained_with, fit=fit,
        trainings=check_range("trainings", trainings, low=0, open_low=True), prepare=prepare, out=out,
    )  # fmt: skip


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _base(base: str | None, of_triples: Mapping[str, Any]) -> str:
    """The base that is meant; settings of triples alone mean those, as before there was a choice."""
    if base is not None:
        return check_choice("base", base, _BASES)
    given = _given(of_triples)
    if not given:
        return "randaugment"
    warnings.warn(
        f"search_label_aware({next(iter(given))}=...) without base: means base='triples', the thesis' method, until "
        "release 0.4; say base='triples', or leave its settings out for vetoes on RandAugment",
        FutureWarning,
        stacklevel=3,
    )
    return "triples"


def _refuse(base: str, foreign: Mapping[str, Any]) -> None:
    given = _given(foreign)
    if given:
        raise ValueError(f"{next(iter(given))}: is no setting of {base}; leave it out, or choose another base")
