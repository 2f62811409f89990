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

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from tamis.core.checks import check_choice
from tamis.core.distributed import gather_objects, rank, world_size
from tamis.core.progress import progress_bar
from tamis.core.rng import torch_generator
from tamis.core.short import short_repr
from tamis.features.head import HeadTap
from tamis.features.prints import input_prints
from tamis.policy.base import fingerprint

__all__ = [
    "SampleFeatures",
    "cross_entropy",
    "exact_gradient_norm",
    "feature_columns",
    "last_layer_gradient_norm",
    "logits_of",
    "renormalised_entropy",
    "sample_features",
]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p_y of each row: logits [B, C], targets int64 [B] -> [B], >= 0."""
    return -logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)


def renormalised_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Entropy over the classes other than the target, in [0, log(C - 1)], Eq. (11): [B, C], [B] -> [B].

    A softmax over the other logits equals p_j / sum of p_j, and stays right where p_y rounds to 1.
    """
    others = torch.ones_like(logits, dtype=torch.bool).scatter_(-1, targets[:, None], False)
    rest = logits[others].view(len(logits), -1)
    entropy: Tensor = torch.special.entr(rest.softmax(-1)).sum(-1)  # Eq. (11)
    return entropy


def last_layer_gradient_norm(logits: Tensor, targets: Tensor, hidden: Tensor, *, bias: bool = True) -> Tensor:
    """Norm of the loss' gradient with respect to the last linear layer: ||p - y|| sqrt(||h||^2 + bias).

    The gradient is the outer product of p - y with (h, 1). Logits [B, C], hidden [B, D] -> [B].
    """
    log_p = logits.log_softmax(-1)
    at_target = torch.expm1(log_p.gather(-1, targets[:, None]))  # p_y - 1 without cancellation
    error = log_p.exp().scatter(-1, targets[:, None], at_target)
    norm: Tensor = torch.linalg.vector_norm(error, dim=-1) * (hidden.square().sum(-1) + float(bias)).sqrt()
    return norm


def exact_gradient_norm(model: nn.Module, inputs: Any, targets: Tensor) -> Tensor:
    """Norm of each sample's gradient with respect to all trainable parameters, by `torch.func`: [B]."""
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def loss_of_one(values: dict[str, Tensor], one: Any, target: Tensor) -> Tensor:
        args, kwargs = ((), one) if isinstance(one, dict) else ((one,), {})
        output = torch.func.functional_call(model, values, args, kwargs)
        return cross_entropy(logits_of(output), target).squeeze(0)

    if isinstance(inputs, dict):
        one_each = {key: value.unsqueeze(1) for key, value in inputs.items()}
    else:
        one_each = inputs.unsqueeze(1)
    gradients = torch.func.vmap(torch.func.grad(loss_of_one), in_dims=(None, 0, 0))(
        parameters, one_each, targets.unsqueeze(1)
    )
    return torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0).sqrt()


def logits_of(output: Any) -> Tensor:
    """The logits [B, C] in a model's output: a tensor, ``.logits``, ``["logits"]`` or the first of a tuple."""
    if isinstance(output, Mapping):
        output = output["logits"]
    elif hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, (tuple, list)):
        output = output[0]
    if not isinstance(output, Tensor) or output.ndim != 2:
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"the model's output: must hold logits of shape [batch, classes], got {got}")
    return output


def feature_columns(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The features of a batch, e.g. of fresh crops: ``loss`` and, for more than 2 classes, ``entropy``."""
    columns = {"loss": cross_entropy(logits, targets)}
    if logits.shape[-1] > 2:
        columns["entropy"] = renormalised_entropy(logits, targets)
    return columns


@dataclass(frozen=True, eq=False)
class SampleFeatures:
    """The features of a data set, in its order.

    Attributes:
        columns: name -> float [n]; ``loss`` first. Own features may be added.
        gradient: float [n], >= 0, the gradient norm.
        fingerprint: of the data the features were taken from: size, labels in order, and the inputs of 16 evenly
            spaced samples, see `check`.

    Raises:
        TypeError: a feature that is no tensor.
        ValueError: no columns, lengths that differ, a value that is not finite, a negative gradient norm.
    """

    columns: dict[str, Tensor]
    gradient: Tensor
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.columns, dict) or not self.columns:
            got = "{}" if isinstance(self.columns, dict) else type(self.columns).__name__
            raise ValueError(f"columns={got}: must be a dict of at least one feature, e.g. {{'loss': losses}}")
        for name, column in {**self.columns, "gradient": self.gradient}.items():
            if not isinstance(column, Tensor):
                raise TypeError(f"{name}={type(column).__name__}: must be a tensor; wrap it in torch.as_tensor")
            if column.ndim != 1 or len(column) != len(self.gradient) or not len(column):
                raise ValueError(f"{name}: must be 1-D with {len(self.gradient)} >= 1 values, got {list(column.shape)}")
            bad = torch.nonzero(~torch.isfinite(column))
            if len(bad):
                index = int(bad[0])
                raise ValueError(f"{name}[{index}]={float(column[index])}: must be finite; look at sample {index}")
        if bool((self.gradient < 0).any()):
            index = int(torch.argmin(self.gradient))
            raise ValueError(f"gradient[{index}]={float(self.gradient[index])}: must be >= 0")

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.gradient)

    def digest(self) -> str:
        """sha256 over all values and names."""
        return fingerprint(self.fingerprint, list(self.columns), list(self.columns.values()), self.gradient)

    def check(self, dataset: Any) -> None:
        """Raise `ValueError` unless the features were taken from ``dataset``.

        Compared are the size, all labels in order, and the inputs of 16 evenly spaced samples, read with the global
        generators seeded, so that most random augmentations repeat. Inputs that differ between two such readings, or
        have no bytes to compare (other than tensors, arrays, PIL images, numbers, text and collections of these),
        are left out.
        """
        if len(dataset) != len(self):
            raise ValueError(f"dataset has {len(dataset)} samples, the features {len(self)}: take its own features")
        if self.fingerprint != (got := _fingerprint(_labels(dataset), dataset)):
            raise ValueError(
                f"fingerprint={self.fingerprint[:19]}..: the features are of another data set than this one "
                f"({got[:19]}.., other labels, inputs, transform or order); run sample_features on it"
            )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        from safetensors.torch import save_file

        meta = {"format": "tamis.features", "fingerprint": self.fingerprint, "names": json.dumps(list(self.columns))}
        tensors = {f"columns.{name}": column.contiguous() for name, column in self.columns.items()}
        temporary = Path(f"{path}.tmp")
        save_file({**tensors, "gradient": self.gradient.contiguous()}, temporary, metadata=meta)
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path, dataset: Any = None) -> SampleFeatures:
        """Read what `save` wrote; with ``dataset``, refuse features of other data (`check`)."""
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            meta = file.metadata() or {}
            if meta.get("format") != "tamis.features":
                raise ValueError(f"path={str(path)!r}: is no file of sample features")
            columns = {name: file.get_tensor(f"columns.{name}") for name in json.loads(meta["names"])}
            features = cls(columns, file.get_tensor("gradient"), meta["fingerprint"])
        if dataset is not None:
            features.check(dataset)
        return features


def sample_features(
    model: nn.Module,
    data: Dataset[Any] | DataLoader[Any],
    *,
    batch_size: int = 256,
    head: nn.Linear | None = None,
    gradient: str = "last_layer",
) -> SampleFeatures:
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
        `SampleFeatures` with ``loss`` and ``entropy``; for 2 classes without the latter (it is always 0).

    Raises:
        ValueError: a feature that is not finite or a label out of range (the message names the sample), no linear
            layer whose outputs are the logits.
        TypeError: an `IterableDataset`, batches without labels, or a ``model`` that is none.
    """
    check_choice("gradient", gradient, ("last_layer", "exact"))
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={type(model).__name__}: must be an nn.Module; call sample_features(model, data)")
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    loader = _shard_loader(data, batch_size)
    tap = HeadTap(model, head) if gradient == "last_layer" else None
    training = [module for module in model.modules() if module.training]
    model.eval()
    rows: list[tuple[np.ndarray, ...]] = []
    number = loader.dataset.indices.start  # type: ignore[attr-defined]  # of the batch's first sample
    try:
        for batch in progress_bar(loader, desc="sample features"):
            rows.append(_batch_features(model, batch, tap, number))
            number += len(rows[-1][0])
    finally:
        for module in training:
            module.training = True
        if tap is not None:
            tap.remove()
    shards = gather_objects([np.concatenate(parts) for parts in zip(*rows, strict=True)] if rows else None)
    loss, entropy, norm, targets, classes = (
        torch.from_numpy(np.concatenate(parts)) for parts in zip(*(s for s in shards if s is not None), strict=True)
    )
    columns = {"loss": loss, "entropy": entropy}
    if int(classes[0]) == 2:
        warnings.warn("2 classes: the renormalised entropy is always 0, so it is dropped", stacklevel=2)
        del columns["entropy"]
    origin = gather_objects(_fingerprint(targets, data.dataset if isinstance(data, DataLoader) else data))[0]
    return SampleFeatures(columns, norm, origin)


def _batch_features(model: nn.Module, batch: Any, tap: HeadTap | None, number: int) -> tuple[np.ndarray, ...]:
    """loss, entropy, gradient norm, targets of the batch from sample ``number`` on, and its classes' number each."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    inputs, targets = _split_batch(batch, device)
    with torch.no_grad():
        logits = logits_of(model(**inputs) if isinstance(inputs, dict) else model(inputs)).double()
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


def _check_labels(targets: Tensor, classes: int, number: int) -> None:
    """Refuse labels outside of [0, classes), e.g. an ``ignore_index``; ``number`` is the first sample's."""
    bad = torch.nonzero((targets < 0) | (targets >= classes))
    if len(bad):
        first = int(bad[0])
        raise ValueError(
            f"label[{number + first}]={int(targets[first])}: must lie in [0, {classes}), the model's classes; "
            "leave samples without a label (such as -100) out of the data set"
        )


def _split_batch(batch: Any, device: torch.device) -> tuple[Any, Tensor]:
    """(inputs, targets) of a batch, on ``device``: a pair, or a mapping with ``labels`` or ``label``."""
    if isinstance(batch, Mapping):
        inputs: Any = {k: v.to(device) for k, v in batch.items() if isinstance(v, Tensor)}
        targets = inputs.pop("labels", inputs.pop("label", None))
    else:
        pair = batch if isinstance(batch, (tuple, list)) and len(batch) == 2 else (None, None)
        inputs, targets = pair[0], pair[1]
        inputs = inputs.to(device) if isinstance(inputs, Tensor) else inputs
    if not isinstance(targets, Tensor) or targets.ndim != 1 or targets.is_floating_point():
        raise TypeError("a batch must be (inputs, labels) or a dict with 'labels' or 'label'; labels int [B]")
    return inputs, targets.to(device).long()


def _shard_loader(data: Dataset[Any] | DataLoader[Any], batch_size: int) -> DataLoader[Any]:
    """A loader over this rank's stretch of the data set, in order."""
    options: dict[str, Any] = {"batch_size": batch_size}
    dataset: Any = data
    if isinstance(data, DataLoader):
        dataset = data.dataset
        options = {"batch_size": data.batch_size or batch_size, "num_workers": data.num_workers}
        options["collate_fn"] = data.collate_fn
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise TypeError(f"data={type(dataset).__name__}: must be a map-style data set, samples are drawn by index")
    if not len(dataset):
        raise ValueError("data: must hold at least one sample")
    size = options["batch_size"]
    count = -(-len(dataset) // size)  # whole batches to each rank: the last bits of a result depend on its batch
    low, high = (min(count * r // world_size() * size, len(dataset)) for r in (rank(), rank() + 1))
    generator = torch_generator(0)  # else each pass would draw from the global one
    return DataLoader(Subset(dataset, range(low, high)), shuffle=False, generator=generator, **options)


def _labels(dataset: Any) -> Tensor:
    """The labels of a data set in order, without loading the inputs where the data set allows it."""
    if isinstance(dataset, Subset):
        return _labels(dataset.dataset)[torch.as_tensor(list(dataset.indices))]
    readers: list[Callable[[], Any]] = [
        lambda: dataset.targets,
        lambda: dataset.tensors[-1],
        lambda: dataset.with_format(None)["labels" if "labels" in dataset.column_names else "label"][:],
    ]
    for read in readers:
        try:
            return torch.as_tensor(read())
        except (AttributeError, KeyError):
            continue
    cpu = torch.device("cpu")
    return torch.cat([_split_batch(batch, cpu)[1] for batch in _shard_loader(dataset, 256)])


def _fingerprint(labels: Tensor, dataset: Any) -> str:
    """sha256 over the labels in order and the inputs of a few samples."""
    return fingerprint(labels.to(torch.int64), input_prints(dataset))
