"""Frame encoders made of image models: any of timm's, or of Hugging Face's.

They see each frame alone, as the model was trained to see pictures, in batches and on the model's device. A feature
costs a forward of the model, so take a small one, or keep what it gave (``cache_dir=`` of the collator, ``out=`` of the
search).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from tamis.core.checks import check_int
from tamis.core.errors import TamisError
from tamis.core.models import device_of, evaluating
from tamis.policy.info import fingerprint

__all__ = ["HFEncoder", "TimmEncoder"]


class _ImageEncoder(ABC):
    """What both share: pictures normalised, through the model in batches; [m, d] on the CPU.

    Attributes:
        size: (height, width) at which frames are read.
    """

    def __init__(
        self, model: nn.Module, size: tuple[int, int], mean: list[float], std: list[float], batch_size: int
    ) -> None:
        self.model, self.size = model, (check_int("size[0]", size[0], low=1), check_int("size[1]", size[1], low=1))
        self.batch_size = check_int("batch_size", batch_size, low=1)
        self.mean, self.std = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
        self._digest: str | None = None

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames uint8 [m, 3, h, w] at `size` -> features float32 [m, d].

        Raises:
            ValueError: frames of another size.
        """
        if tuple(frames.shape[1:]) != (3, *self.size):
            raise ValueError(f"frames={list(frames.shape)}: must be [m, 3, {self.size[0]}, {self.size[1]}]")
        with torch.inference_mode(), evaluating(self.model):
            return torch.cat(list(self._features(frames)))

    def _features(self, frames: torch.Tensor) -> Iterator[torch.Tensor]:
        device, dtype = device_of(self.model), next(self.model.parameters()).dtype
        for part in torch.split(frames, self.batch_size):
            pixels = (part.to(device).float() / 255 - self.mean.to(device)) / self.std.to(device)
            features = self._forward(pixels.to(dtype))
            if features.ndim != 2 or len(features) != len(part):
                raise TamisError(
                    f"{type(self.model).__name__}: must give one vector a picture, got {list(features.shape)} for "
                    f"{len(part)}; take a model without a head, or write an encoder of your own"
                )
            yield features.float().cpu()

    @abstractmethod
    def _forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels [b, 3, h, w] -> features [b, d]."""

    def digest(self) -> str:
        """sha256 over the weights and all that shapes the features; found once."""
        if self._digest is None:
            state = [tensor.detach().cpu() for tensor in self.model.state_dict().values()]
            self._digest = fingerprint(type(self.model).__name__, list(self.size), self.mean, self.std, *state)
        return self._digest


class TimmEncoder(_ImageEncoder):
    """Features of frames by a model of timm, without its head.

    Args:
        model: a name (``timm.list_models()``), or a model of timm's.
        pretrained: load the published weights of the name (from the Hub, or timm's cache).
        size: (height, width) at which frames are read; None: what the model was trained on.
        batch_size: frames a forward.

    Raises:
        ImportError: timm is not installed.
        RuntimeError: timm knows no such model.
    """

    def __init__(
        self,
        model: str | nn.Module,
        *,
        pretrained: bool = False,
        size: tuple[int, int] | None = None,
        batch_size: int = 64,
    ) -> None:
        try:
            import timm
            from timm.data.config import resolve_model_data_config
        except ImportError as error:
            raise ImportError("TimmEncoder needs timm: pip install 'tamis[vision]'") from error
        network = timm.create_model(model, pretrained=pretrained, num_classes=0) if isinstance(model, str) else model
        known: Any = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
        size = tuple(known["input_size"][1:]) if size is None else size
        super().__init__(network, size, list(known["mean"]), list(known["std"]), batch_size)

    def _forward(self, pixels: torch.Tensor) -> torch.Tensor:
        network: Any = self.model
        features: torch.Tensor = network.forward_head(network.forward_features(pixels), pre_logits=True)
        return features


class HFEncoder(_ImageEncoder):
    """Features of frames by an image model of transformers: its pooled output, else the mean of its last states.

    Args:
        model: takes ``pixel_values`` [b, 3, h, w], e.g. ``AutoModel.from_pretrained("facebook/dinov2-small")``; of
            CLIP-like models their vision part (``model.vision_model``).
        processor: the model's image processor, from which mean, deviation and size are taken; None: 0.5, 0.5, and the
            size in the model's configuration.
        size: (height, width) at which frames are read; None: the processor's, else the model's.
        batch_size: frames a forward.

    Raises:
        ValueError: nobody says the size.
    """

    def __init__(
        self, model: nn.Module, processor: Any = None, *, size: tuple[int, int] | None = None, batch_size: int = 64
    ) -> None:
        mean = list(getattr(processor, "image_mean", None) or [0.5] * 3)
        std = list(getattr(processor, "image_std", None) or [0.5] * 3)
        super().__init__(model, size or _size_of(model, processor), mean, std, batch_size)

    def _forward(self, pixels: torch.Tensor) -> torch.Tensor:
        output = self.model(pixel_values=pixels)
        pooled: torch.Tensor | None = getattr(output, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)
        states: torch.Tensor = output.last_hidden_state
        return states.mean(1) if states.ndim == 3 else states.mean((2, 3))


def _size_of(model: Any, processor: Any) -> tuple[int, int]:
    """(height, width) that the processor makes, or the model was configured for."""
    for found in (getattr(processor, "crop_size", None), getattr(processor, "size", None)):
        named = dict(found) if isinstance(found, Mapping) else vars(found) if hasattr(found, "__dict__") else {}
        if named.get("height") and named.get("width"):
            return int(named["height"]), int(named["width"])
        if named.get("shortest_edge"):
            return (int(named["shortest_edge"]),) * 2
    size = getattr(getattr(model, "config", None), "image_size", None)
    if isinstance(size, int):
        return size, size
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return int(size[0]), int(size[1])
    raise ValueError(f"size=None: {type(model).__name__} does not say at which size it wants frames; give size=(h, w)")
