"""The arms of the DNIS benchmark that need no DNIS: full, narrow, int4, frequency rule, magnitude, random alpha.

Every arm is trained by `benchmarks.ctr.training.train` within one budget of samples; a pruned arm keeps its zeros by
`benchmarks.ctr.sparsity.Hold`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.ctr import sparsity
from benchmarks.ctr.data import CTRData, load
from benchmarks.ctr.training import Run, auc, predict, train
from examples.ctr_models import FM, DeepFM

__all__ = ["Arms", "Outcome", "Plan", "Setting", "largest", "mean_squares", "tables_of", "to_principal_axes"]


@dataclass(frozen=True)
class Plan:
    """What is held fixed, and the grids of the tuning.

    Attributes:
        epochs: of 80 % of the rows: the budget.
        warm, search: epochs of DNIS over its 70 %: before alpha moves, and with one alpha batch a step.
        dim: K.
        widths: uniform widths; width / dim is a share at which all are compared.
        lrs, decays: grids. ``decays`` are L2 on the looked-up rows.
        rows: at most so many rows in the 80 %.
    """

    epochs: int
    warm: int
    search: int
    dim: int
    widths: tuple[int, ...]
    lrs: tuple[float, ...]
    decays: tuple[float, ...]
    rows: int | None = None

    @property
    def retraining(self) -> int:
        """Epochs over the 80 % that DNIS has left: a search step costs two batches."""
        return int(self.epochs - 0.875 * (self.warm + 2 * self.search))


class MatrixFactorization(FM):
    """Dot product of user and movie, biases, squared error."""

    def forward(self, features: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """As `CTRModel.forward`; the loss is the mean squared error of the score."""
        out = super().forward(features)
        return out if labels is None else {"loss": F.mse_loss(out["logits"], labels), **out}


def negative_mse(score: np.ndarray, label: np.ndarray) -> float:
    return -float(((score - label) ** 2).mean())


class Setting:
    """Data of one seed, model, score; ``tuned``: name -> value."""

    def __init__(self, name: str, plan: Plan, folder: Path, seed: int, tuned: dict[str, Any]) -> None:
        self.name, self.plan, self.seed, self.tuned = name, plan, seed, tuned
        data = load("movielens1m", folder, seed=seed, rows=plan.rows)
        self.data = _fields(data, ("user_id", "movie_id")) if name == "mf" else data
        self.score = negative_mse if name == "mf" else auc
        self.batch = 2048

    @cached_property
    def held(self) -> tuple[CTRData, tuple[Tensor, Tensor]]:
        """The data with 70 % to train on, and the 10 % of alpha's batches."""
        ids, labels = self.data.train
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(self.seed))
        alpha, weights = order[: len(ids) // 8], order[len(ids) // 8 :]
        return replace(self.data, train=(ids[weights], labels[weights])), (ids[alpha], labels[alpha])

    def build(self, dim: int | None = None) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)  # noqa: TID251
            if self.name == "mf":
                model = MatrixFactorization(self.data.sizes, dim=dim or self.plan.dim)
                for table in model.embeddings.values():
                    nn.init.normal_(table.weight, std=0.05)
                nn.init.constant_(model.bias, float(self.data.train[1].mean()))
            else:
                model = DeepFM(self.data.sizes, dim=dim or self.plan.dim, hidden=(64, 32))
        return model

    def train(self, model: nn.Module, epochs: int, arm: str, **options: Any) -> Run:
        """At the rates (lr, row decay) that were tuned for ``arm``."""
        lr, decay = self.tuned[f"rates, {arm}"]
        options = {"data": self.data, "seed": self.seed, "score": self.score} | options
        return train(model, epochs=epochs, batch=self.batch, lr=lr, row_decay=decay, **options)

    def groups(self, kind: str) -> dict[str, Tensor]:
        return sparsity.frequency_blocks(self.data, self.tuned[f"blocks, {kind}"])


def _fields(data: CTRData, fields: tuple[str, ...]) -> CTRData:
    """Only these fields."""
    places = [list(data.sizes).index(field) for field in fields]
    parts = {
        part: (getattr(data, part)[0][:, places].contiguous(), getattr(data, part)[1])
        for part in ("train", "validation", "test")
    }
    return replace(data, sizes={field: data.sizes[field] for field in fields}, **parts)


@dataclass
class Outcome:
    """A trained arm: its last run, what it spent before that, its masks and bytes."""

    run: Run
    before: int = 0
    share: float = 1.0
    bytes: int = 0
    more: dict[str, Any] | None = None

    def entry(self, setting: Setting) -> dict[str, Any]:
        """As JSON."""
        sign = -1 if setting.name == "mf" else 1
        return {
            "test": sign * self.run.test,
            "validation": [round(sign * score, 5) for score in self.run.validation],
            "best_epoch": self.run.best,
            "share": self.share,
            "bytes": self.bytes,
            "samples": self.before + self.run.samples,
            "seconds": round(self.run.seconds, 1),
            **(self.more or {}),
        }


class Arms:
    """Every arm of one seed; what several shares use is trained once."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.plan, self.dim = setting, setting.plan, setting.plan.dim
        self.rows = setting.data.rows
        self.warmed: dict[tuple[int, str], nn.Module] = {}

    # Rivals that train one model from the start.

    @cached_property
    def full(self) -> tuple[nn.Module, Run]:
        model = self.setting.build()
        return model, self.setting.train(model, self.plan.epochs, "full")

    def unpruned(self) -> Outcome:
        return Outcome(self.full[1], bytes=sparsity.dense_bytes(self.rows, self.dim))

    def int4(self) -> Outcome:
        """The full model's tables rounded after training."""
        model, run = copy.deepcopy(self.full[0]), copy.copy(self.full[1])
        with torch.no_grad():
            for table in model.embeddings.values():
                table.weight.copy_(sparsity.quantised(table.weight))
        ids, labels = self.setting.data.test
        run.test = self.setting.score(predict(model, ids), labels.numpy())
        return Outcome(run, bytes=sparsity.int4_bytes(self.rows, self.dim))

    def uniform(self, width: int, like: int | None = None) -> Outcome:
        """Narrow from the start; ``like``: the width whose tuned rates are used, ``width`` if None."""
        run = self.setting.train(self.setting.build(width), self.plan.epochs, f"width {like or width}")
        return Outcome(run, share=width / self.dim, bytes=sparsity.dense_bytes(self.rows, width))

    def frequency(self, share: float) -> Outcome:
        """Width per block by its frequency, from the start."""
        groups, power = self.setting.groups("frequency rule"), self.setting.tuned["power, frequency rule"]
        masks = sparsity.frequency_mask(self.setting.data, groups, self.dim, share, power)
        return self.masked(self.setting.build(), 0, masks, self.plan.epochs, "frequency rule", share, groups)

    # Rivals that prune a warm model and train on.

    def warm(self, kind: str) -> tuple[nn.Module, int]:
        """A copy of the full model after the warm start that was tuned for ``kind``, and its epochs."""
        share, rates = self.setting.tuned[f"warm, {kind}"]
        epochs = max(1, round(share * self.plan.epochs))
        if (epochs, rates) not in self.warmed:
            model = self.warmed[epochs, rates] = self.setting.build()
            self.setting.train(model, epochs, rates)
        return copy.deepcopy(self.warmed[epochs, rates]), epochs

    def masked(
        self,
        model: nn.Module,
        spent: int,
        masks: dict[str, Tensor],
        epochs: int,
        kind: str,
        share: float,
        groups: dict[str, Tensor] | None = None,
        more: dict[str, Any] | None = None,
    ) -> Outcome:
        """Train ``model`` on with ``masks`` held; ``groups`` if the masks are columns per group."""
        hold = sparsity.Hold(model, masks)
        run = self.setting.train(model, epochs, f"{kind}, {share:g}", pruner=hold)
        forms = {"blocks": sparsity.block_bytes(masks, groups)} if groups else sparsity.value_bytes(masks)
        more = (more or {}) | {"bytes_by_form": forms, "kept_by_table": _by_table(masks)}
        return Outcome(run, spent, sparsity.kept_share(masks), min(forms.values()), more)

    def after_warm(
        self,
        kind: str,
        share: float,
        choose: Callable[[dict[str, Tensor]], dict[str, Tensor]],
        groups: dict[str, Tensor] | None = None,
        axes: bool = False,
    ) -> Outcome:
        """Prune the warm model by ``choose``, masks from tables, and train on; ``axes``: turned first."""
        model, epochs = self.warm(kind)
        if axes:
            to_principal_axes(model)
        spent = epochs * (len(self.setting.data.train[0]) // self.setting.batch) * self.setting.batch
        return self.masked(model, spent, choose(tables_of(model)), self.plan.epochs - epochs, kind, share, groups)

    def magnitude(self, share: float, axes: bool = False) -> Outcome:
        """The largest |values| over all tables."""
        return self.after_warm("magnitude values", share, lambda tables: largest(tables, share), axes=axes)

    def magnitude_columns(self, share: float, axes: bool = False) -> Outcome:
        """The columns of blocks with the largest mean square."""
        groups = self.setting.groups("magnitude")

        def choose(tables: dict[str, Tensor]) -> dict[str, Tensor]:
            return sparsity.column_mask(groups, mean_squares(tables, groups), share)

        return self.after_warm("magnitude columns", share, choose, groups, axes)

    def low_rank(self, share: float, more: int = 0) -> Outcome:
        """The first principal axes of the warm model, as many for all rows: uniform width by truncation.

        ``more``: axes beyond the share.
        """
        width = round(share * self.dim) + more

        def choose(tables: dict[str, Tensor]) -> dict[str, Tensor]:
            first = torch.arange(self.dim) < width
            return {field: first.expand_as(table).clone() for field, table in tables.items()}

        outcome = self.after_warm("low rank", share, choose, axes=True)
        outcome.bytes = sparsity.dense_bytes(self.rows, width)
        return outcome

    def random_alpha(self, share: float) -> Outcome:
        """Pruned as DNIS prunes, but alpha is uniform in [0, 1]: the largest |alpha E|; rates as `magnitude`."""
        groups = self.setting.groups("magnitude")
        count = len(sparsity.group_rows(groups))
        alpha = torch.rand(count, self.dim, generator=torch.Generator().manual_seed(self.setting.seed))

        def choose(tables: dict[str, Tensor]) -> dict[str, Tensor]:
            return largest({field: table * alpha[groups[field]] for field, table in tables.items()}, share)

        return self.after_warm("magnitude values", share, choose)

    def methods(self) -> dict[str, dict[str, Callable[[], Outcome]]]:
        """Share -> arm -> what trains it."""
        table: dict[str, dict[str, Callable[[], Outcome]]] = {
            "all": {f"full, K = {self.dim}": self.unpruned, "full, int4 rows after training": self.int4}
        }
        for width in self.plan.widths:
            share = width / self.dim
            shared: dict[str, Callable[[float], Outcome]] = {
                "magnitude, values": self.magnitude,
                "magnitude, columns of blocks": self.magnitude_columns,
                "frequency rule": self.frequency,
                "random alpha, values": self.random_alpha,
                "low rank, principal axes": self.low_rank,
                "magnitude, values, principal axes": partial(self.magnitude, axes=True),
                "magnitude, columns of blocks, principal axes": partial(self.magnitude_columns, axes=True),
            }
            wider = width + 1  # where a block's index costs 4 bytes a row, DNIS has as many bytes
            table[f"{share:g}"] = {
                f"uniform width {width}": lambda width=width: self.uniform(width),
                f"uniform width {wider}, bytes of DNIS": lambda width=width: self.uniform(width + 1, width),
                "low rank, bytes of DNIS": lambda share=share: self.low_rank(share, 1),
            }
            table[f"{share:g}"] |= {name: lambda run=run, share=share: run(share) for name, run in shared.items()}
        return table


def tables_of(model: nn.Module) -> dict[str, Tensor]:
    """Field -> its table's weight, detached."""
    return {field: table.weight.detach() for field, table in model.embeddings.items()}


def largest(tables: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Mask of the ``share`` of all values that are largest in size."""
    return sparsity.value_mask({field: table.abs() for field, table in tables.items()}, share)


@torch.no_grad()
def to_principal_axes(model: nn.Module) -> None:
    """Turn all tables by one rotation, which leaves every output as it is, so that column 0 holds most energy.

    Dot products of rows do not see a rotation; the first layer of a perceptron is turned back. The axes are those of
    the sum over the tables of their mean outer products.
    """
    tables = tables_of(model)
    axes = torch.linalg.eigh(sum(table.T @ table / len(table) for table in tables.values())).eigenvectors.flip(1)
    for table in tables.values():
        table.copy_(table @ axes)
    if hasattr(model, "mlp"):
        first = model.mlp[0].weight
        first.copy_((first.view(len(first), len(tables), -1) @ axes).view_as(first))


def mean_squares(weights: dict[str, Tensor], groups: dict[str, Tensor]) -> Tensor:
    """Of every column in every group, [groups, dim]: removed energy per number."""
    rows = sparsity.group_rows(groups)
    total = torch.zeros(len(rows), next(iter(weights.values())).shape[1])
    for field, weight in weights.items():
        total.index_add_(0, groups[field], weight.square())
    return total / rows[:, None]


def _by_table(masks: dict[str, Tensor]) -> dict[str, float]:
    """Field -> mean kept numbers per row."""
    return {field: round(float(mask.float().sum(1).mean()), 3) for field, mask in masks.items()}
