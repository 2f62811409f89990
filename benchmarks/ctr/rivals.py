"""The methods that DimReg is compared with. Each gets the same epochs in all, searching included, and the same budget.

A budget is a number of embedding parameters. Every method ends as a model whose tables are physically narrow
(`tamis.pruners.surgery.cut`, the form with zeros put back), so that all are trained and scored by the same code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.ctr.data import CTRData
from benchmarks.ctr.training import Run, train
from examples.ctr_models import MODELS
from tamis.pruners import ColumnGate, Pruner, Selection, Step, Table, cut, split_by_budget

__all__ = [
    "Setting",
    "build",
    "dimensions",
    "l1_gates",
    "magnitude",
    "mde",
    "one_shot",
    "random_columns",
    "same_columns",
    "uniform",
]


class Setting:
    """One data set, model, width, training length: what a comparison holds fixed."""

    def __init__(self, data: CTRData, model: str, dim: int, epochs: int, lr: float, sparse: bool = True) -> None:
        self.data, self.model, self.dim, self.epochs, self.lr, self.sparse = data, model, dim, epochs, lr, sparse
        self.batch = 2048
        self.decays = {"full": 0.0, "narrow": 0.0, "DimReg": 0.0}  # row decay, by the kind of model

    def build(self, seed: int, dim: int | None = None) -> nn.Module:
        return build(self.data, self.model, dim or self.dim, seed, self.sparse)

    def train(
        self, model: nn.Module, seed: int, epochs: int | None = None, kind: str = "narrow", **options: object
    ) -> Run:
        epochs = self.epochs if epochs is None else epochs
        options = {"row_decay": self.decays[kind]} | options
        return train(model, self.data, epochs=epochs, seed=seed, lr=self.lr, batch=self.batch, **options)

    @property
    def steps(self) -> int:
        return self.epochs * (len(self.data.train[0]) // self.batch)

    @property
    def parameters(self) -> int:
        """Embedding parameters of the full model."""
        return self.data.rows * self.dim


def build(data: CTRData, name: str, dim: int, seed: int, sparse: bool) -> nn.Module:
    """A fresh model; the first-order weights (one number a row) always have dense gradients."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # noqa: TID251
        model = MODELS[name](data.sizes, dim=dim, hidden=(64, 32), sparse=sparse)
    for table in model.linear.values():
        table.sparse = False
    return model


def dimensions(model: nn.Module) -> dict[str, int]:
    """Field -> width of its table."""
    return {field: table.weight.shape[1] for field, table in model.embeddings.items()}


@torch.no_grad()
def narrowed(setting: Setting, seed: int, kept: dict[str, Tensor]) -> nn.Module:
    """A fresh model with only the ``kept`` columns (field -> [k]), started as one that was built narrow.

    The first layer's weights are drawn for as many inputs as it has; of a model built wide they would be too small,
    since most of its inputs are then zeros that are put back.
    """
    model = setting.build(seed)
    cut(model, {f"embeddings.{field}": columns for field, columns in kept.items()})
    inputs = sum(len(columns) for columns in kept.values())
    if hasattr(model, "mlp") and inputs:
        first = model.mlp[0]
        for parameter in (first.weight, first.bias):
            parameter.mul_((first.in_features / inputs) ** 0.5)
    return model


def by_score(setting: Setting, score: Tensor, budget: int, power: float) -> dict[str, Tensor]:
    """The columns with the most score / rows ** ``power`` that the budget holds; score: [fields x dim].

    1 is score per parameter; with 0 what a column costs does not count in its rank.
    """
    rows = torch.tensor(list(setting.data.sizes.values()), dtype=torch.float64).repeat_interleave(setting.dim)
    keep = split_by_budget(score.double() * rows ** (1 - power), rows, budget).view(-1, setting.dim)
    return {field: mask.nonzero()[:, 0] for field, mask in zip(setting.data.sizes, keep, strict=True)}


def uniform(setting: Setting, seed: int, dim: int, **options: float) -> Run:
    """The same small width for all; the full model at ``dim=setting.dim``."""
    kind = "full" if dim == setting.dim else "narrow"
    return setting.train(setting.build(seed, dim), seed, kind=kind, **options)


def mde(setting: Setting, seed: int, budget: int, power: float) -> tuple[Run, dict[str, int]]:
    """Mixed dimensions (Ginart et al., arXiv:1909.11810): width proportional to rows ** -power, at most ``dim``.

    At most and not exactly the budget: a width is rounded down, and a field may get none.
    """
    rows = torch.tensor(list(setting.data.sizes.values()), dtype=torch.float64)

    def widths(scale: float) -> Tensor:
        return (scale * rows**-power).floor().clamp(0, setting.dim)

    low, high = 0.0, setting.dim * float(rows.max() ** power) * 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float((widths(middle) * rows).sum()) <= budget else (low, middle)
    kept = {field: torch.arange(int(w)) for field, w in zip(setting.data.sizes, widths(low), strict=True)}
    model = narrowed(setting, seed, kept)
    return setting.train(model, seed), {field: len(columns) for field, columns in kept.items()}


def random_columns(setting: Setting, seed: int, counts: dict[str, int]) -> Run:
    """As many columns per field as given (those of DimReg), drawn at random, trained from the start."""
    generator = torch.Generator().manual_seed(seed)
    kept = {
        field: torch.randperm(setting.dim, generator=generator)[:count].sort().values for field, count in counts.items()
    }
    return setting.train(narrowed(setting, seed, kept), seed)


def same_columns(setting: Setting, seed: int, kept: dict[str, Tensor]) -> Run:
    """The given columns of the same start, trained for all epochs again: what the choice is worth without its search.

    That is twice the training of the others; an ablation, no rival.
    """
    return setting.train(narrowed(setting, seed, kept), seed)


def magnitude(setting: Setting, seed: int, budget: int, search: int, power: float) -> tuple[Run, dict[str, int]]:
    """``search`` epochs at full width, the columns with the largest norm (`by_score`), the other epochs anew."""
    model = setting.build(seed)
    setting.train(model, seed, search, kind="full")
    score = torch.cat([table.weight.detach().norm(dim=0) for table in model.embeddings.values()])
    return _again(setting, seed, by_score(setting, score, budget, power), search)


def one_shot(setting: Setting, seed: int, budget: int, search: int, power: float) -> tuple[Run, dict[str, int]]:
    """As SSEDS (Qu et al., SIGIR 2022): after ``search`` epochs |dL/dgate| of one batch, then training anew."""
    model = setting.build(seed)
    setting.train(model, seed, search, kind="full")
    gates = L1Gates(model, start=4.0, strength=0.0).leaves()
    ids, labels = setting.data.train
    model(ids[: setting.batch], labels[: setting.batch])["loss"].backward()
    score = torch.cat([gate.grad.abs() for gate in gates])
    return _again(setting, seed, by_score(setting, score, budget, power), search)


def _again(setting: Setting, seed: int, kept: dict[str, Tensor], search: int) -> tuple[Run, dict[str, int]]:
    run = setting.train(narrowed(setting, seed, kept), seed, setting.epochs - search)
    return run, {field: len(columns) for field, columns in kept.items()}


def l1_gates(
    setting: Setting, seed: int, budget: int, search: int, power: float, strength: float
) -> tuple[Run, dict[str, int]]:
    """Gates with an L1 penalty, unweighted, for ``search`` epochs; the largest are kept (`by_score`).

    The training then goes on without gates.
    """
    model = setting.build(seed)
    pruner = L1Gates(model, start=2.0, strength=strength)
    setting.train(model, seed, search, pruner=pruner, patience=search)
    phi = torch.cat([torch.sigmoid(gate.detach()) for gate in pruner.leaves()])
    kept = by_score(setting, phi, budget, power)
    pruner.chosen = kept
    pruner.prune()
    run = setting.train(model, seed + 1000, setting.epochs - search)
    return run, {field: len(columns) for field, columns in kept.items()}


class L1Gates(Pruner):
    """A gate per column under an L1 penalty, trained by Adam; ``chosen`` (field -> columns) is kept at the cut."""

    def __init__(self, model: nn.Module, *, start: float, strength: float) -> None:
        self.start, self.strength = start, strength
        self.chosen: dict[str, Tensor] = {}
        super().__init__(model)
        self.adam = torch.optim.Adam(self.leaves(), lr=2e-2)

    def make_gate(self, table: Table) -> ColumnGate:
        return ColumnGate(torch.full((table.width,), self.start))

    def leaves(self) -> list[Tensor]:
        return [leaf for table in self.tables for leaf in table.modules[0].gate.leaves()]

    def penalty(self) -> Tensor:
        return self.strength * sum(torch.sigmoid(gate).sum() for gate in self.leaves())

    def after_step(self, step: Step) -> None:
        self.adam.step()

    def select(self) -> dict[str, Selection]:
        fields = {table.field: table.field.rpartition(".")[2] for table in self.tables}
        return {name: Selection.columns(self.chosen[field]) for name, field in fields.items()}
