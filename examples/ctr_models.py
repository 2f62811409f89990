"""Four small click-through-rate models over categorical fields, for the examples, the demo and the benchmarks.

Each model takes ids ``[B, m]`` (one column per field, in the order of ``field_sizes``) and returns a dict with
``logits`` [B] and, if labels are given, the mean logistic ``loss``: what HF Trainer wants and what a plain loop reads.

* `FM`        Rendle, "Factorization Machines", ICDM 2010.
* `DeepFM`    Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", IJCAI 2017.
* `WideDeep`  Cheng et al., "Wide & Deep Learning for Recommender Systems", DLRS 2016 (no crossed columns).
* `DotNet`    Naumov et al., "Deep Learning Recommendation Model", arXiv:1906.00091 (categorical fields only).

``model.embeddings[field]`` are the wide tables, which a pruner makes smaller; ``model.linear[field]`` are the
first-order weights, one number per id, which it leaves alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["FM", "MODELS", "CTRModel", "DeepFM", "DotNet", "WideDeep"]


class CTRModel(nn.Module):
    """Tables, first-order weights and the loss; a subclass adds `score`.

    Args:
        field_sizes: field name -> number of ids. Id 0 stands for ids not seen in training: any id outside
            [0, size) is looked up there.
        dim: width of every embedding table.
        hidden: widths of the hidden layers of the MLP (not used by `FM`).
        dropout: dropout after each hidden layer, in [0, 1).
        sparse: sparse gradients for the embedding tables (needs SparseAdam, Adagrad or SGD).
    """

    def __init__(
        self,
        field_sizes: Mapping[str, int],
        dim: int = 32,
        hidden: Sequence[int] = (128, 64),
        dropout: float = 0.0,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        sizes = field_sizes.items()
        self.embeddings = nn.ModuleDict({field: nn.Embedding(size, dim, sparse=sparse) for field, size in sizes})
        self.linear = nn.ModuleDict({field: nn.Embedding(size, 1, sparse=sparse) for field, size in sizes})
        self.bias = nn.Parameter(torch.zeros(()))
        self.register_buffer("sizes", torch.tensor(list(field_sizes.values())), persistent=False)
        for table in self.embeddings.values():
            nn.init.normal_(table.weight, std=0.01)
        for table in self.linear.values():
            nn.init.zeros_(table.weight)
        self.build(len(field_sizes), dim, hidden, dropout)

    def build(self, fields: int, dim: int, hidden: Sequence[int], dropout: float) -> None:
        """Make what the subclass has beyond the tables."""

    def score(self, rows: list[Tensor]) -> Tensor:
        """The logit's part that comes from the embeddings: m tensors [B, dim] -> [B]."""
        raise NotImplementedError

    def forward(self, features: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Args: ids [B, m] int64; labels [B] float in {0, 1}. Returns: ``logits`` [B] and, with labels, ``loss``."""
        known = (features >= 0) & (features < self.sizes)
        columns = torch.where(known, features, 0).unbind(dim=1)
        rows = [table(ids) for table, ids in zip(self.embeddings.values(), columns, strict=True)]
        first_order = [table(ids) for table, ids in zip(self.linear.values(), columns, strict=True)]
        logits = self.bias + torch.cat(first_order, dim=1).sum(dim=1) + self.score(rows)
        if labels is None:
            return {"logits": logits}
        return {"loss": F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype)), "logits": logits}


def factorization(rows: list[Tensor]) -> Tensor:
    """Sum over all field pairs of their dot product, [B]: half of (square of the sum - sum of the squares)."""
    stacked = torch.stack(rows, dim=1)
    return 0.5 * (stacked.sum(dim=1).square() - stacked.square().sum(dim=1)).sum(dim=1)


def perceptron(inputs: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear, ReLU (and dropout) per hidden layer, then one output."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 1))


class FM(CTRModel):
    """Factorization machine: first order + dot products of all field pairs."""

    def score(self, rows: list[Tensor]) -> Tensor:
        return factorization(rows)


class DeepFM(CTRModel):
    """FM and an MLP over the concatenated embeddings, sharing the tables."""

    def build(self, fields: int, dim: int, hidden: Sequence[int], dropout: float) -> None:
        self.mlp = perceptron(fields * dim, hidden, dropout)

    def score(self, rows: list[Tensor]) -> Tensor:
        return factorization(rows) + self.mlp(torch.cat(rows, dim=1)).squeeze(1)


class WideDeep(CTRModel):
    """First order (wide) + an MLP over the concatenated embeddings (deep)."""

    def build(self, fields: int, dim: int, hidden: Sequence[int], dropout: float) -> None:
        self.mlp = perceptron(fields * dim, hidden, dropout)

    def score(self, rows: list[Tensor]) -> Tensor:
        return self.mlp(torch.cat(rows, dim=1)).squeeze(1)


class DotNet(CTRModel):
    """An MLP over the dot products of all field pairs, as DLRM's interaction layer."""

    def build(self, fields: int, dim: int, hidden: Sequence[int], dropout: float) -> None:
        self.register_buffer("pairs", torch.triu_indices(fields, fields, offset=1), persistent=False)
        self.mlp = perceptron(self.pairs.shape[1], hidden, dropout)

    def score(self, rows: list[Tensor]) -> Tensor:
        stacked = torch.stack(rows, dim=1)
        products = torch.bmm(stacked, stacked.transpose(1, 2))
        return self.mlp(products[:, self.pairs[0], self.pairs[1]]).squeeze(1)


MODELS = {"fm": FM, "deepfm": DeepFM, "widedeep": WideDeep, "dotnet": DotNet}
