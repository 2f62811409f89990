"""Judges: trained models, and what operations do to the probability of the true class on images held out from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tamis.core.distributed import parallel_map
from tamis.core.errors import TamisError
from tamis.core.models import device_of, evaluating
from tamis.core.rng import numpy_generator
from tamis.transforms.images.menu import Menu
from tamis.transforms.images.ops import Drawn
from tamis.transforms.images.tensor import apply_batch

__all__ = ["HeldOut", "levels_of"]


def levels_of(menu: Menu, at: int, levels: Sequence[float]) -> list[int]:
    """The steps of 0..30 at which an operation is judged, mild to full; an operation without a magnitude has one."""
    entry = menu.entries[at]
    full = menu.full_step(at)
    return [round(full * level) for level in levels] if entry.graded else [full]


class HeldOut:
    """Images that a judge was not trained on.

    On several processes the batches are dealt out; sums over batches are taken in their order, so that the result
    does not depend on the number of processes.

    Args:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        classes: how many there are.
        prepare: from uint8 [B, C, H, W] on the device to the model's input.
        batch_size: images a forward.
        seed: of the signs of mirrored magnitudes, and of where a Cutout lies.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        classes: int,
        *,
        prepare: Callable[[Tensor], Tensor],
        batch_size: int,
        seed: int,
    ) -> None:
        self.images, self.labels, self.classes = images, labels, classes
        self.prepare, self.seed = prepare, seed
        self.batches = list(torch.split(torch.arange(len(images)), batch_size))

    def __len__(self) -> int:
        return len(self.images)

    def clean(self, model: nn.Module) -> np.ndarray:
        """The true class' probability of each image as it is: float64 [N]."""
        return self._probabilities(model, None)

    def judge(self, model: nn.Module, menu: Menu, columns: Sequence[int], levels: Sequence[float]) -> dict[str, Any]:
        """What a model says of some of a menu's operations: sums by class, as `Sums` has them, in lists."""
        clean = self.clean(model)
        record: dict[str, Any] = {
            "operations": list(columns),
            "n": self._by_class(np.ones_like(clean)),
            "clean": self._by_class(clean),
            "clean2": self._by_class(clean**2),
            "seen": [], "seen2": [], "both": [],
        }  # fmt: skip
        for at in columns:
            seen = [self._probabilities(model, self._drawn(menu, at, step)) for step in levels_of(menu, at, levels)]
            record["seen"].append([self._by_class(after) for after in seen])
            record["seen2"].append([self._by_class(after**2) for after in seen])
            record["both"].append([self._by_class(after * clean) for after in seen])
        return {"score": float(clean.mean()), **record}

    def _drawn(self, menu: Menu, at: int, step: int) -> list[Drawn]:
        """The operation for each image: half of them mirrored, a Cutout anywhere."""
        entry, rng = menu.entries[at], numpy_generator(self.seed, 4, at, step)
        mirror = rng.permutation(len(self)) % 2
        places = rng.random((len(self), 2))
        return [
            Drawn(entry.op, 0, x, y, entry.value(step, bool(flag)))
            for flag, (x, y) in zip(mirror.tolist(), places.tolist(), strict=True)
        ]

    def _by_class(self, values: np.ndarray) -> list[float]:
        sums: list[float] = np.bincount(self.labels.numpy(), weights=values, minlength=self.classes).tolist()
        return sums

    def _probabilities(self, model: nn.Module, drawn: list[Drawn] | None) -> np.ndarray:
        with evaluating(model):
            parts = parallel_map(lambda rows: self._batch(model, rows, drawn), self.batches)
        return np.concatenate(parts)

    def _batch(self, model: nn.Module, rows: Tensor, drawn: list[Drawn] | None) -> np.ndarray:
        device = device_of(model)
        if self.images.device != device:
            self.images = self.images.to(device)  # and there they stay
        images = self.images[rows]
        if drawn is not None:
            images = apply_batch(images, [[drawn[row]] for row in rows.tolist()])
        with torch.no_grad():
            logits = model(self.prepare(images))
        logits = getattr(logits, "logits", logits)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < self.classes:
            shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise TamisError(
                f"model: gave {shape} for {len(images)} images of {self.classes} classes: must be logits [B, L]"
            )
        if not bool(torch.isfinite(logits).all()):
            raise TamisError(
                "model: gave logits that are NaN or infinite; give prepare= what the model was trained with"
            )
        chosen = logits.double().softmax(1).gather(1, self.labels[rows].to(logits.device)[:, None])
        found: np.ndarray = chosen.squeeze(1).cpu().numpy()
        return found
