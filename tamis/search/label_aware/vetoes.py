"""Vetoes on a base augmentation: for each class, the operations that it must not get.

Operations are put into groups (geometry, colour, inversion, flips, ...), and who judges one depends on what the
user's own model was trained with:

- **an added operation** (a flip) is judged by a model that was never trained with its group: a net that was trained
  with mirrored 2s has learned that a mirrored 2 is a 2. If the user's model was, ``fit`` must train one without.
- **the base's own operations** are judged by the user's own model. Where it was trained with them, what a class still
  loses is what training could not teach, beyond what other classes lose: an image of another class. With ``fit`` they
  are judged as added ones are, by models that were trained with the base but for their group; that was measured to be
  worse, because a judge dislikes whatever it has never seen, and more for some classes than for others.

``fit`` trains at most two judges for each model: geometry is left out alone, and all other groups together; their cost
is bounded by ``trainings``. Judges see only images that they were not trained on; with several models, each on its
own part (the folds of a cross-validation), all images count. What they say is weighed in `evidence`.

This is ours, not the thesis': the measured reasons are on the method's card.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from tamis.core.errors import TamisError
from tamis.core.types import PathOrStr
from tamis.policy.base import DataInfo, fingerprint
from tamis.search.label_aware.config import VetoConfig
from tamis.search.label_aware.data import read_images, warn_of_chance, warn_of_empty
from tamis.search.label_aware.evidence import Sums, Verdict, false_discovery_rates, judge
from tamis.search.label_aware.judges import HeldOut
from tamis.search.run import SearchRun
from tamis.transforms.images.menu import BASES, Menu, entry_of
from tamis.transforms.label_aware.augment import LabelAwareAugment
from tamis.transforms.label_aware.menu_policy import MenuPolicy

__all__ = ["Fit", "search_vetoes"]

_SUMS = ("n", "clean", "clean2", "seen", "seen2", "both")


class Fit(Protocol):
    """Trains a judge: as the user's own model was trained, but with another augmentation."""

    def __call__(self, augment: LabelAwareAugment, fold: int, share: float) -> nn.Module:
        """Train.

        Args:
            augment: the augmentation, in place of the model's own.
            fold: which of the models to replace: train on the same images, without its held-out part.
            share: of the usual number of epochs, in (0, 1].
        """
        ...


class _Judge(NamedTuple):
    """Who judges which columns of the menu: a fold's own model, or one trained without some groups."""

    fold: int
    without: tuple[str, ...]  # empty: the fold's own model
    columns: tuple[int, ...]


def search_vetoes(
    models: Sequence[nn.Module],
    parts: Sequence[Any],
    names: tuple[str, ...],
    config: VetoConfig,
    *,
    trained_with: str | Sequence[str],
    fit: Fit | None,
    trainings: float,
    prepare: Callable[[Tensor], Tensor],
    out: PathOrStr | None,
) -> MenuPolicy:
    """`search_label_aware` on a base with a menu; arguments as there."""
    menu = config.menu
    known = _groups_of(menu, trained_with)
    judges = _judges(menu, known, len(models), fit is not None)
    fits = sum(bool(row.without) for row in judges)
    share = min(1.0, trainings * len(models) / (fits * max(1, len(models) - 1))) if fits else 0.0
    held = [
        HeldOut(*read_images(part, len(names)), len(names), prepare=prepare, batch_size=config.batch_size,
                seed=config.seed)
        for part in parts
    ]  # fmt: skip
    labels = torch.cat([part.labels for part in held])
    warn_of_empty(labels, names, "the base's own operations and every added one that is not vetoed for all others")
    clean = [part.clean(model) for part, model in zip(held, models, strict=True)]
    warn_of_chance(float(np.concatenate(clean).mean()), len(labels), len(names))
    data = {
        "models": [fingerprint(dict(model.state_dict())) for model in models],
        "data": [fingerprint(part.images, part.labels) for part in held],
        "classes": list(names), "clean": [round(float(values.sum()), 3) for values in clean],
        "judges": [[row.fold, *row.without] for row in judges], "share": share,
    }  # fmt: skip

    def evaluate(number: int, point: np.ndarray) -> dict[str, Any]:
        row = judges[number]
        model = models[row.fold]
        if row.without:
            assert fit is not None
            model = _fitted(fit, _without(menu, names, config, row.without), row.fold, share)
        return held[row.fold].judge(model, menu, row.columns, config.levels)

    with SearchRun("label_aware_menu", config, out, data=data) as run:
        records = run.trials(
            evaluate, lambda past, count: np.arange(len(judges))[:, None], trials=len(judges), initial=len(judges),
            spread=False, desc="judging operations",
        )  # fmt: skip
        found = _weighed(menu, records, config)
        passes = sum(len(held[row.fold]) * (1 + _passes(record)) for row, record in zip(judges, records, strict=True))
        info = run.info(
            float(np.mean([record["score"] for record in records])),
            {"judges_trained": fits, "sample_forwards": passes},
            share_of_epochs=share, images=len(labels),
        )  # fmt: skip
        counts = torch.bincount(labels, minlength=len(names))
        return run.finish(replace(_policy(menu, names, found, config, counts), search=info))


def _groups_of(menu: Menu, trained_with: str | Sequence[str]) -> frozenset[str]:
    """The groups of operations that the models were trained with."""
    given = [trained_with] if isinstance(trained_with, str) else list(trained_with)
    groups = {entry.group for entry in menu.entries}
    found: set[str] = set()
    for name in given:
        if name in BASES:
            found |= {entry.group for entry in BASES[name] if entry.name != "Identity"}
        elif name in {entry.name for entry in menu.entries}:
            found |= {entry.group for entry in menu.entries if entry.name == name}
        elif name in groups or name in ("geometry", "colour", "inversion", "flip", "erasing"):
            found.add(name)
        else:
            try:
                found.add(entry_of(name).group)
            except ValueError as error:
                allowed = ", ".join([*BASES, *sorted(groups - {"none"})])
                raise ValueError(
                    f"trained_with: {name!r}: must be a base, a group of operations or an operation ({allowed}, ...); "
                    "e.g. 'geometry' for RandomResizedCrop, 'colour' for ColorJitter, 'flip' for RandomHorizontalFlip"
                ) from error
    return frozenset(found)


def _judges(menu: Menu, known: frozenset[str], folds: int, can_fit: bool) -> list[_Judge]:
    """Who judges what.

    Raises:
        ValueError: nobody can judge an added operation.
    """
    columns = range(1, len(menu.entries))
    own = tuple(at for at in columns if menu.entries[at].group not in known)
    others = [at for at in columns if menu.entries[at].group in known]
    if not can_fit:
        added = [menu.entries[at] for at in others if at >= menu.own]
        if added:
            raise ValueError(
                f"add: {added[0].name} cannot be judged by a model that was trained with {added[0].group} (so "
                "trained_with says): it has learned not to mind; give fit=, a function that trains one without, or a "
                "model trained without"
            )
        own, others = tuple(columns), []
    rows = [_Judge(fold, (), own) for fold in range(folds) if own]
    for geometry in (True, False):
        mine = tuple(at for at in others if (menu.entries[at].group == "geometry") == geometry)
        without = tuple(sorted({menu.entries[at].group for at in mine}))
        rows += [_Judge(fold, without, mine) for fold in range(folds) if mine]
    return rows


def _without(menu: Menu, names: tuple[str, ...], config: VetoConfig, groups: tuple[str, ...]) -> LabelAwareAugment:
    """The base's own operations but for some groups, the same for every class."""
    own = {entry.group for entry in menu.entries[: menu.own]}
    return LabelAwareAugment(
        MenuPolicy.plain(
            names,
            config.base,
            without=[group for group in groups if group in own],
            operations=config.operations,
            magnitude=config.magnitude,
        ),
        seed=config.seed,
    )


def _fitted(fit: Fit, augment: LabelAwareAugment, fold: int, share: float) -> nn.Module:
    model = fit(augment, fold, share)
    if not isinstance(model, nn.Module):
        raise TamisError(f"fit: gave {type(model).__name__}: must be the trained nn.Module")
    return model


def _passes(record: Mapping[str, Any]) -> int:
    return sum(len(levels) for levels in record["seen"])


def _weighed(menu: Menu, records: Sequence[Mapping[str, Any]], config: VetoConfig) -> dict[int, Verdict]:
    """The verdict on each column that was judged."""
    sums: dict[int, dict[str, np.ndarray]] = {}
    for record in records:
        for place, at in enumerate(record["operations"]):
            new = {key: np.asarray(record[key] if key in _SUMS[:3] else record[key][place]) for key in _SUMS}
            sums[at] = {key: sums[at][key] + new[key] for key in _SUMS} if at in sums else new
    return {
        at: judge(
            Sums(**parts), margin=config.margin, relative=at < menu.own,
            shrinkage=config.shrinkage,
        )
        for at, parts in sorted(sums.items())
    }  # fmt: skip


def _policy(
    menu: Menu, names: tuple[str, ...], found: dict[int, Verdict], config: VetoConfig, counts: Tensor
) -> MenuPolicy:
    """What the verdicts come to: a vetoed pair keeps the strongest level below which all harm is small."""
    shape = (len(names), len(menu.entries))
    strengths, harms, doubts = np.ones(shape), np.full(shape, np.nan), np.ones(shape)
    rates = false_discovery_rates([verdict.p[-1] for verdict in found.values()])
    for (at, verdict), rate in zip(found.items(), rates, strict=True):
        doubts[:, at], harms[:, at] = rate, verdict.harm[-1]
        vetoed = (rate <= config.false_discovery) & verdict.plain[-1]
        milder = np.logical_and.accumulate(verdict.small[:-1], axis=0).sum(0) if len(verdict.small) > 1 else 0
        kept = np.concatenate([[0.0], config.levels])[np.broadcast_to(milder, vetoed.shape)]
        strengths[:, at] = np.where(vetoed, kept, 1.0)
    return MenuPolicy(
        classes=names, base=config.base, strengths=torch.from_numpy(strengths).float(),
        added=config.add, chances=config.chances, operations=config.operations, magnitude=config.magnitude,
        harms=torch.from_numpy(harms).float(), doubts=torch.from_numpy(doubts).float(), images=counts,
        data=DataInfo(classes=names),
    )  # fmt: skip
