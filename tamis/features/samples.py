"""What a trained model says about each sample: loss, renormalised entropy, gradient norm, in one pass.

Swift Sampler (section 4) draws by these features of a *fixed*, early model, because the features of the model
in training jitter. All three come from the logits and the input of the last linear layer, so one forward pass
is enough.

========= ============== ==================================================================================
symbol    here           meaning
========= ============== ==================================================================================
f_1^o     ``loss``       cross entropy -log p_y, [n]
E^r       ``entropy``    entropy of the classes other than the target, renormalised, Eq. (11), [n]
grad      ``gradient``   norm of the loss' gradient, [n]
========= ============== ==================================================================================

**Unstated** in the paper: which gradient norm. The default is that of the last linear layer,
``||p - y|| sqrt(||h||^2 + 1)``, exact for that layer; ``gradient="exact"`` takes all parameters, one sample at
a time (slow, meant for tests and small models).
"""

from __future__ import annotations

import warnings
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tamis.core.checks import check_choice, check_type
from tamis.core.distributed import gather_objects
from tamis.core.models import device_of, evaluating, logits_of
from tamis.core.progress import progress_bar
from tamis.core.types import Batch, MapDataset
from tamis.features.data import Inputs, fingerprint_dataset, shard_loader, split_batch
from tamis.features.head import HeadTap
from tamis.features.table import FeatureTable

__all__ = [
    "cross_entropy",
    "exact_gradient_norm",
    "feature_columns",
    "last_layer_gradient_norm",
    "renormalised_entropy",
    "sample_features",
]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p_y of each row: float [B], >= 0.

    Args:
        logits: float [B, C].
        targets: int64 [B] in [0, C).
    """
    return -logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)


def renormalised_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Entropy over the classes other than the target, Eq. (11): float [B] in [0, log(C - 1)].

    A softmax over the other logits equals p_j / sum of p_j, and stays right where p_y rounds to 1.

    Args:
        logits: float [B, C].
        targets: int64 [B] in [0, C).
    """
    others = torch.ones_like(logits, dtype=torch.bool).scatter_(-1, targets[:, None], False)
    rest = logits[others].view(len(logits), -1)
    entropy: Tensor = torch.special.entr(rest.softmax(-1)).sum(-1)  # Eq. (11)
    return entropy


def last_layer_gradient_norm(logits: Tensor, targets: Tensor, hidden: Tensor, *, bias: bool = True) -> Tensor:
    """Norm of the loss' gradient with respect to the last linear layer: ||p - y|| sqrt(||h||^2 + bias).

    The gradient is the outer product of p - y with (h, 1).

    Args:
        logits: float [B, C].
        targets: int64 [B] in [0, C).
        hidden: h, the layer's input, float [B, D].
        bias: whether the layer has a bias.

    Returns:
        float [B], >= 0.
    """
    log_p = logits.log_softmax(-1)
    at_target = torch.expm1(log_p.gather(-1, targets[:, None]))  # p_y - 1 without cancellation
    error = log_p.exp().scatter(-1, targets[:, None], at_target)
    norm: Tensor = torch.linalg.vector_norm(error, dim=-1) * (hidden.square().sum(-1) + float(bias)).sqrt()
    return norm


def exact_gradient_norm(model: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
    """Norm of each sample's gradient with respect to all trainable parameters, by `torch.func`: float [B].

    Args:
        model: gives logits [B, C]; in eval mode.
        inputs: a tensor [B, ...], or keywords of such.
        targets: int64 [B] in [0, C).
    """
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def loss_of_one(values: dict[str, Tensor], one: Inputs, target: Tensor) -> Tensor:
        args, kwargs = ((), one) if isinstance(one, dict) else ((one,), {})
        output = torch.func.functional_call(model, values, args, kwargs)
        return cross_entropy(_class_logits(output), target).squeeze(0)

    if isinstance(inputs, dict):
        one_each = {key: value.unsqueeze(1) for key, value in inputs.items()}
    else:
        one_each = inputs.unsqueeze(1)
    gradients = torch.func.vmap(torch.func.grad(loss_of_one), in_dims=(None, 0, 0))(
        parameters, one_each, targets.unsqueeze(1)
    )
    return torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0).sqrt()


def feature_columns(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The features of a batch, e.g. of fresh crops: ``loss`` and, for more than 2 classes, ``entropy``; each [B].

    Args:
        logits: float [B, C].
        targets: int64 [B] in [0, C).
    """
    columns = {"loss": cross_entropy(logits, targets)}
    if logits.shape[-1] > 2:
        columns["entropy"] = renormalised_entropy(logits, targets)
    return columns


def sample_features(
    model: nn.Module,
    data: MapDataset | DataLoader[Any],
    *,
    batch_size: int = 256,
    head: nn.Linear | None = None,
    gradient: str = "last_layer",
) -> FeatureTable:
    """Features of every sample of ``data`` under ``model``, in the order of the data set.

    One pass in eval mode on the model's device; the model's training flags come back as they were. On several
    processes each rank does one stretch of the data and all get all features.

    Args:
        model: maps a batch to logits [B, C] (a tensor, or an output with ``logits``).
        data: a map-style data set of ``(input, label)`` or of dicts with ``labels`` or ``label``; or a
            `DataLoader`, whose data set, batch size, workers and collate function are used (not its order).
            Take the features without random augmentation.
        batch_size: used where ``data`` is a data set.
        head: the linear layer that makes the logits; default: the last one whose outputs are the logits, up to a
            constant.
        gradient: ``"last_layer"`` (closed form) or ``"exact"`` (all parameters, slow).

    Returns:
        A `FeatureTable` with the columns ``loss``, ``entropy`` (not for 2 classes, where it is always 0) and
        ``gradient``.

    Raises:
        ValueError: a feature that is not finite or a label out of range (the message names the sample), no linear
            layer whose outputs are the logits.
        TypeError: an `IterableDataset`, batches without labels, or a ``model`` that is not an nn.Module.
    """
    check_choice("gradient", gradient, ("last_layer", "exact"))
    check_type("model", model, nn.Module, "an nn.Module; call sample_features(model, data)")
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    loader = shard_loader(data, batch_size)
    rows = _measured(model, loader, HeadTap(model, head) if gradient == "last_layer" else None)
    shards = gather_objects([np.concatenate(parts) for parts in zip(*rows, strict=True)] if rows else None)
    loss, entropy, norm, targets, classes = (
        torch.from_numpy(np.concatenate(parts)) for parts in zip(*(s for s in shards if s is not None), strict=True)
    )
    columns = {"loss": loss, "entropy": entropy, "gradient": norm}
    if int(classes[0]) == 2:
        warnings.warn("2 classes: the renormalised entropy is always 0, so it is dropped", stacklevel=2)
        del columns["entropy"]
    dataset = cast(MapDataset, data.dataset if isinstance(data, DataLoader) else data)
    origin = gather_objects(fingerprint_dataset(dataset, targets))[0]
    return FeatureTable(columns, fingerprint=origin)


def _measured(model: nn.Module, loader: DataLoader[Any], tap: HeadTap | None) -> list[tuple[np.ndarray, ...]]:
    """What `_batch_features` gives of each batch of this rank's stretch; the model comes back as it was."""
    rows: list[tuple[np.ndarray, ...]] = []
    number = loader.dataset.indices.start  # type: ignore[attr-defined]  # of the batch's first sample
    try:
        with evaluating(model):
            for batch in progress_bar(loader, desc="sample features"):
                rows.append(_batch_features(model, batch, tap, number))
                number += len(rows[-1][0])
    finally:
        if tap is not None:
            tap.remove()
    return rows


def _batch_features(model: nn.Module, batch: Batch, tap: HeadTap | None, number: int) -> tuple[np.ndarray, ...]:
    """loss, entropy, gradient norm, targets of the batch from sample ``number`` on, and its classes' number each."""
    inputs, targets = split_batch(batch, device_of(model))
    with torch.no_grad():
        logits = _class_logits(model(**inputs) if isinstance(inputs, dict) else model(inputs)).double()
        _check_labels(targets, logits.shape[-1], number)
        loss, entropy = cross_entropy(logits, targets), renormalised_entropy(logits, targets)
        if tap is not None:
            hidden, bias = tap.take(logits)
            norm = last_layer_gradient_norm(logits, targets, hidden.double(), bias=bias)
    if tap is None:
        norm = exact_gradient_norm(model, inputs, targets)
    classes = torch.full_like(targets, logits.shape[-1])
    return tuple(
        value.float().cpu().numpy() if value.is_floating_point() else value.cpu().numpy()
        for value in (loss, entropy, norm, targets, classes)
    )


def _class_logits(output: object) -> Tensor:
    """The logits [B, C] in a model's output."""
    logits = logits_of(output)
    if logits.ndim != 2:
        raise ValueError(
            f"the model's output: must hold logits of shape [batch, classes], got shape {tuple(logits.shape)}"
        )
    return logits


def _check_labels(targets: Tensor, classes: int, number: int) -> None:
    """Refuse labels outside of [0, classes), e.g. an ``ignore_index``; ``number`` is the first sample's."""
    bad = torch.nonzero((targets < 0) | (targets >= classes))
    if len(bad):
        first = int(bad[0])
        raise ValueError(
            f"label[{number + first}]={int(targets[first])}: must lie in [0, {classes}), the model's classes; "
            "leave samples without a label (such as -100) out of the data set"
        )
