"""The negative log-likelihood of each sample of a batch, whatever the model: translation, causal LM, classifier.

Eq. (3.7) of M. Zhao et al., AAAI 2020, minus the sign: the sum of -log p over a sample's target tokens; a classifier's
label is one token. It needs nothing of a model but its logits, so that it is exact for every sample on its own (a
model's own ``loss`` is an average over the batch).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from tamis.core.checks import check_int
from tamis.core.distributed import gather_objects, rank_stretch
from tamis.core.errors import TamisError
from tamis.core.models import device_of, evaluating, logits_of, to_device
from tamis.core.progress import progress_bar
from tamis.core.rng import torch_generator
from tamis.core.types import Batch, Collate, MapDataset
from tamis.features.data import Inputs, collated, items_of

__all__ = ["SampleLoss", "log_likelihoods", "make_batch", "sample_loss", "sample_loss_of"]

# (model, batch) -> (negative log-likelihood of each sample [B], its number of target tokens [B])
SampleLoss = Callable[[nn.Module, Any], tuple[Tensor, Tensor]]

LOSSES = ("auto", "classifier", "seq2seq", "causal")
IGNORED = -100  # PyTorch's label of what is not to be learned


def sample_loss_of(loss: str | SampleLoss) -> SampleLoss:
    """The function that ``loss`` names, or ``loss`` itself.

    Args:
        loss: ``"classifier"``: logits [B, C], labels [B]. ``"seq2seq"``: logits [B, T, V] predict labels [B, T] (also
            token classification and masked models). ``"causal"``: logits at t predict the label at t + 1. ``"auto"``:
            the first for logits [B, C]; the second for Hugging Face's encoder-decoders; the third for its models named
            ...ForCausalLM or ...LMHeadModel, or with ``config.is_decoder``; else an error. Or a function of your own.
    """
    if callable(loss):
        return loss
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r}: must be one of {', '.join(map(repr, LOSSES))}, or a function")
    return lambda model, batch: sample_loss(model, batch, loss)


def sample_loss(model: nn.Module, batch: Batch, loss: str = "auto") -> tuple[Tensor, Tensor]:
    """-log p(y|x) of each sample, Eq. (3.7), and its number of target tokens: ([B], [B]); differentiable.

    Args:
        model: gives logits (a tensor, ``.logits``, ``["logits"]``, or the first of a tuple).
        batch: a mapping with ``labels`` (or ``label``), or (inputs, labels); -100 marks what is not a target.
        loss: as `sample_loss_of`.

    Raises:
        TamisError: the model's output holds no logits, or ``loss="auto"`` cannot tell.
        TypeError: a batch without labels.
    """
    config = getattr(model, "config", None)
    inputs, labels = _split(batch, needs_labels=getattr(config, "is_encoder_decoder", True))
    output = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    logits = logits_of(output)
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    if logits.ndim == 2 and labels.ndim == 1:
        return nn.functional.cross_entropy(logits, labels, reduction="none"), torch.ones_like(labels)
    if logits.ndim != 3 or labels.ndim != 2:
        raise TamisError(
            f"logits {list(logits.shape)} with labels {list(labels.shape)}: must be [B, C] with [B], or [B, T, V] with "
            "[B, T]; pass loss=your_function"
        )
    if loss == "auto":
        loss = _kind_of(model)
    if loss == "causal":
        logits, labels = logits[:, :-1], labels[:, 1:]
    tokens = nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED)
    return tokens.sum(1), (labels != IGNORED).sum(1)


def _kind_of(model: nn.Module) -> str:
    """``"seq2seq"`` or ``"causal"``, as the model's config and name say."""
    config, name = getattr(model, "config", None), type(getattr(model, "_orig_mod", model)).__name__  # torch.compile's
    if getattr(config, "is_encoder_decoder", False):
        return "seq2seq"
    # GPT-2 and its like are named ...LMHeadModel; XLNet is too, but predicts in place
    if name.endswith(("ForCausalLM", "LMHeadModel")) and not name.startswith("XLNet"):
        return "causal"
    if getattr(config, "is_decoder", False):
        return "causal"
    raise TamisError(
        f'loss="auto": cannot tell what the logits of {name} predict: pass loss="seq2seq" if the label at the same '
        'place (token classification and masked models too), loss="causal" if the next one'
    )


def log_likelihoods(
    model: nn.Module,
    data: MapDataset,
    *,
    collate: Collate | None = None,
    loss: str | SampleLoss = "auto",
    batch_size: int = 64,
) -> np.ndarray:
    """Log p(y|x) of every sample of ``data`` and the same per target token: float32 [n, 2].

    One pass in eval mode, in order; on several processes each rank does one stretch and all get all.

    Args:
        model: see `sample_loss`.
        data: a map-style data set.
        collate: a list of items -> a batch; default: torch's.
        loss: as `sample_loss_of`.
        batch_size: samples per forward pass.

    Raises:
        TamisError: a value that is not finite (the message names the sample), no target token in the whole data.
    """
    function = sample_loss_of(loss)
    if isinstance(data, IterableDataset) or not hasattr(data, "__getitem__"):
        raise TypeError(f"data={type(data).__name__}: must be a map-style data set, samples are drawn by index")
    check_int("batch_size", batch_size, low=1)
    part: Dataset[Any] = Subset(data, rank_stretch(len(data)))  # type: ignore[arg-type]  # a Protocol is enough
    rows = [np.empty((0, 2))]
    with evaluating(model), torch.no_grad():
        loader = DataLoader(part, batch_size, collate_fn=collate or collated, generator=torch_generator(0))
        for batch in progress_bar(loader, desc="log-likelihood"):
            total, count = function(model, to_device(batch, device_of(model)))
            rows.append(torch.stack([-total.double(), count.double()], 1).cpu().numpy())
    values = np.concatenate(gather_objects(np.concatenate(rows)))
    bad = np.flatnonzero(~np.isfinite(values[:, 0]))
    if len(bad):
        raise TamisError(f"log-likelihood[{bad[0]}]={values[bad[0], 0]}: must be finite; look at sample {bad[0]}")
    if not values[:, 1].any():
        raise TamisError("no sample has a target token: all labels are -100; does the tokenizer truncate everything?")
    values[:, 1] = values[:, 0] / np.maximum(values[:, 1], 1)
    return values.astype(np.float32)


def make_batch(data: MapDataset, indices: Iterable[int] | Tensor, collate: Collate | None, model: nn.Module) -> Batch:
    """Items of ``data`` as one batch on the model's device.

    Args:
        data: a map-style data set.
        indices: numbers of the items.
        collate: a list of items -> a batch; default: torch's.
        model: where its first parameter is, the batch goes.
    """
    return items_of(data, indices, collate, device_of(model))


def _split(batch: Batch, needs_labels: bool) -> tuple[Inputs, Tensor]:
    """(what the model is called with, labels); an encoder-decoder makes its decoder's inputs from the labels."""
    if isinstance(batch, Mapping):
        inputs: Inputs = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        labels = inputs.get("labels", inputs.get("label"))
        given = inputs.get("decoder_input_ids") is not None or (isinstance(labels, Tensor) and labels.ndim == 1)
        if given or not needs_labels:
            inputs = {name: value for name, value in inputs.items() if name not in ("labels", "label")}
    else:
        pair = batch if isinstance(batch, (tuple, list)) and len(batch) == 2 else (None, None)
        inputs, labels = pair
    if not isinstance(labels, Tensor) or labels.is_floating_point():
        raise TypeError("a batch must be (inputs, labels) or a mapping with 'labels' or 'label'; labels are integers")
    return inputs, labels.long()
