"""What several models that did not see a sample say of it: a feature that tells wrong labels better than one loss does.

The loss of one early model misses wrong labels that it has begun to learn by heart. Out of fold, no model has seen the
sample that it judges; but it has seen the other wrong ones. So there is a second round, whose models are fitted only
on the samples that the first round found credible, and the ranks are added up::

    def fit(indices, seed):                        # your training, on these samples, from new weights
        model = make_model(seed)
        run(model, Subset(train, indices), epochs=6)
        return model                               # or a Hugging Face Trainer that was not trained yet

    features = consensus_loss(train, fit, features=features, also=("mean_loss",), out="runs/consensus")

========================= =========================================================================================
column                    meaning
========================= =========================================================================================
``out_of_fold_loss``      loss of the sample (per target token) by a model that was fitted on the other folds
``second_loss``           the same by a model fitted on the credible part of the other folds
``consensus_loss``        mean of the ranks in (0, 1] of these and of the columns ``also``; high is doubtful
========================= =========================================================================================

After the idea of confident learning (Northcutt et al., 2021, arXiv:1911.00068), which thresholds out-of-fold
probabilities; the second round and the sum of ranks are ours.

**The second round is not out of fold in the strict sense.** Which samples are credible was decided by the first round,
and some of its models were fitted on the very sample that the second round's model judges: its label had a say, if a
faint one, in which other samples that model is fitted on. No model is fitted on what it judges in either round. Where
a loss must not know its sample's label at all (an honest estimate of error, rather than an order), use ``rounds=1``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Subset

from tamis.core.checks import check_int, check_range
from tamis.core.distributed import broadcast_object
from tamis.core.errors import TamisError
from tamis.core.rng import numpy_generator, seed_of, seeded_globals
from tamis.core.types import Collate, MapDataset, PathOrStr
from tamis.features.cache import cached_on_all_ranks, function_print
from tamis.features.data import classes_of, fingerprint_dataset
from tamis.features.losses import SampleLoss, log_likelihoods, sample_loss_of
from tamis.features.table import FeatureTable
from tamis.policy.base import fingerprint

__all__ = ["Fit", "consensus_loss", "rank_sum"]

#: (indices of the samples to fit on, a seed) -> a fitted model, or a Trainer that is still to be trained.
Fit = Callable[[list[int], int], Any]

_STREAM = 0x636F6E73


def consensus_loss(
    data: MapDataset,
    fit: Fit,
    *,
    features: FeatureTable | None = None,
    also: Sequence[str] = (),
    folds: int = 4,
    rounds: int = 2,
    keep: float = 0.6,
    per_class: bool = True,
    collate: Collate | None = None,
    loss: str | SampleLoss = "auto",
    batch_size: int = 256,
    seed: int = 0,
    out: PathOrStr | None = None,
) -> FeatureTable:
    """Cross-fitted losses of every sample and their consensus; ``rounds * folds`` short trainings.

    On several processes every rank calls ``fit`` with the same arguments, and the losses are measured in shares.

    Args:
        data: a map-style data set.
        fit: called with the indices to fit on, an increasing list, and a seed; trains *new* weights, under global
            generators seeded by that seed. Returns the model, or a Hugging Face Trainer (not yet trained), whose
            model and collator are then used.
        features: a table of ``data`` to which the columns are added; None makes a new one.
        also: columns of ``features`` whose ranks are added too, high for the doubtful, e.g. those of `LossTrajectory`.
        folds: K, parts of the data; a model is fitted on K - 1 of them. In [2, n].
        rounds: 1, or 2 for the second round.
        keep: share of lowest loss in the first round that the second one is fitted on, in (0, 1).
        per_class: take that share within each class, where samples have a class: else rare classes, whose losses are
            high, would be missing in the second round. False: of all.
        collate: a list of items -> a batch; default: the Trainer's, else torch's.
        loss: as `sample_loss_of`.
        batch_size: samples a forward pass of measuring.
        seed: of the folds and of each fit.
        out: folder; what is there of the same data (all labels, some inputs), folds, seed, ``loss`` and ``collate`` is
            not fitted again. It knows ``fit`` by its name only: after a change inside it, use another folder.

    Returns:
        A `FeatureTable` with the columns above.

    Raises:
        TypeError, ValueError: ``fit`` is no function or returns no model; too many folds; a table of other data.
        TamisError: ``fit`` returns the same model twice, a loss is not finite (the message names the sample), or
            ``out`` is given but nothing of ``data`` can be hashed, so that other data would get these losses.
    """
    _check(data, fit, folds, rounds, keep)
    size, origin = len(data), _fingerprint(data, out)
    _check_table(features, also, size, origin)
    part_of = numpy_generator(_STREAM, seed).permutation(size) % folds
    work = _CrossFit(data, fit, part_of, collate, loss, batch_size, seed, out, origin)
    first = work.round(0, np.ones(size, bool))
    columns = {"out_of_fold_loss": first}
    if rounds == 2:
        columns["second_loss"] = work.round(1, _credible(first, keep, classes_of(data) if per_class else None))
    others = [features[name].numpy() for name in also] if features is not None else []
    columns["consensus_loss"] = rank_sum([*columns.values(), *others])
    tensors = {name: torch.from_numpy(values) for name, values in columns.items()}
    return FeatureTable(tensors, fingerprint=origin) if features is None else features.with_columns(tensors)


def rank_sum(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of the ranks of several columns, ties taken together at their last: float64 [n] in (0, 1].

    Args:
        columns: each finite, [n].
    """
    ranks = [np.searchsorted(np.sort(c), c, side="right") / len(c) for c in map(np.asarray, columns)]
    return np.asarray(np.mean(ranks, 0))


class _CrossFit:
    """Rounds of fits, each on all folds but one, and the losses of that one."""

    def __init__(
        self,
        data: MapDataset,
        fit: Fit,
        part_of: np.ndarray,
        collate: Collate | None,
        loss: str | SampleLoss,
        batch_size: int,
        seed: int,
        out: PathOrStr | None,
        origin: str,
    ) -> None:
        self.data, self.fit, self.part_of = data, fit, part_of
        self.collate, self.loss, self.batch_size = collate, loss, batch_size
        self.seed, self.out, self.origin = seed, out, origin
        self.seen: dict[str, tuple[int, int]] = {}
        self.last: nn.Module | None = None

    def round(self, number: int, credible: np.ndarray) -> np.ndarray:
        """Losses of all samples by models fitted on the ``credible`` of the other folds: float64 [n]."""
        losses = np.empty(len(self.part_of))
        for fold in range(int(self.part_of.max()) + 1):
            held = np.flatnonzero(self.part_of == fold)
            used = np.flatnonzero((self.part_of != fold) & credible)
            name = getattr(self.fit, "__qualname__", type(self.fit).__qualname__)
            kinds = [function_print(self.loss), function_print(self.collate)]
            key = ("consensus", self.origin, name, kinds, self.seed, number, fold, used, held)
            block = cached_on_all_ranks(self.out, key, lambda: self._fitted(used, held, number, fold))  # noqa: B023
            losses[held] = block[:, 0]
        return losses

    def _fitted(self, used: np.ndarray, held: np.ndarray, number: int, fold: int) -> np.ndarray:
        """Loss per target token of the samples ``held`` by a model that was fitted on ``used``: float32 [k, 1]."""
        seed = seed_of(self.seed, number, fold)
        with seeded_globals(seed):
            result: Any = self.fit(used.tolist(), seed)
            collate = self.collate
            if hasattr(result, "train") and hasattr(result, "evaluate") and hasattr(result, "model"):
                result.train()
                collate = collate or _collator_of(result)
                result = result.model
        if not isinstance(result, nn.Module):
            raise TypeError(f"fit: must return the fitted nn.Module, or a Trainer, got {type(result).__name__}")
        self._refuse_repeats(result, number, fold)
        part: Any = Subset(self.data, held.tolist())  # type: ignore[arg-type]  # a Protocol is enough
        rows = log_likelihoods(
            result, part, collate=collate, loss=sample_loss_of(self.loss), batch_size=self.batch_size
        )
        return -rows[:, 1:]

    def _refuse_repeats(self, model: nn.Module, number: int, fold: int) -> None:
        """Weights that were seen before: then some model has seen what it judges, or nothing was trained."""
        weights = fingerprint(dict(model.state_dict()))
        again = model is self.last or weights in self.seen
        self.last = model  # kept alive, else another model could get its place in memory
        if again:
            raise TamisError(
                f"fit: returned the same model for fold {fold} of round {number + 1} as before, so it was trained on "
                "the samples that it judges, or not at all; make a new model at each call, from the seed"
            )
        self.seen[weights] = (number, fold)


def _credible(losses: np.ndarray, keep: float, classes: np.ndarray | None) -> np.ndarray:
    """The share ``keep`` of lowest loss, of each class: bool [n]."""
    kept = np.zeros(len(losses), bool)
    one = np.zeros(len(losses), int) if classes is None else classes
    for members in (np.flatnonzero(one == number) for number in np.unique(one)):
        order = members[np.argsort(losses[members], kind="stable")]
        kept[order[: max(1, round(keep * len(order)))]] = True
    return kept


def _collator_of(trainer: Any) -> Collate | None:
    """The Trainer's collator, which leaves out what the model does not take, as in its own loaders."""
    collate: Collate | None = getattr(trainer, "data_collator", None)
    without = getattr(trainer, "_get_collator_with_removed_columns", None)
    return collate if without is None or collate is None else without(collate)


def _fingerprint(data: MapDataset, out: PathOrStr | None) -> str:
    """Of the data; empty if it cannot be told from other data, which nothing that is kept may be."""
    try:
        origin, problem = fingerprint_dataset(data), None
    except TypeError as error:
        origin, problem = "", str(error)
    origin, problem = broadcast_object((origin, problem))
    if problem is not None and out is not None:
        raise TamisError(f"out={str(out)!r}: {problem}, so other data would be given these losses; leave out= out")
    return origin


def _check(data: MapDataset, fit: Fit, folds: int, rounds: int, keep: float) -> None:
    check_int("folds", folds, low=2)
    if folds > len(data):
        raise ValueError(f"folds={folds}: must be <= {len(data)}, the samples of the data")
    check_int("rounds", rounds, low=1, high=2)
    check_range("keep", keep, low=0, high=1, open_low=True, open_high=True)
    if not callable(fit) or isinstance(fit, nn.Module):
        raise TypeError(f"fit={type(fit).__name__}: must be a function (indices, seed) -> fitted model")


def _check_table(features: FeatureTable | None, also: Sequence[str], size: int, origin: str) -> None:
    if features is None:
        if also:
            raise ValueError(f"also={tuple(also)}: needs features=, the table that holds these columns")
        return
    if not isinstance(features, FeatureTable):
        raise TypeError(f"features={type(features).__name__}: must be a FeatureTable of the same data, or None")
    if len(features) != size or (features.fingerprint and features.fingerprint != origin):
        raise ValueError(
            f"features: are of {len(features)} samples of other data than this ({size} samples): take its own features"
        )
    missing = [name for name in also if name not in features]
    if missing:
        raise ValueError(f"also: {', '.join(missing)} not among the features {', '.join(features.column_names)}")
