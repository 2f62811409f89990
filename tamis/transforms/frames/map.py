"""The mapping network of Search-Map-Search: from the features of all frames to the feature of the best combination.

Eq. (5.2) and (5.3) of M. Zhao's thesis, chapter 5: transformer layers over the frames, then their mean
(`TransformerMap`); or the mean, then two layers (`MlpMap`).

======= ============== ==================================================
symbol  here           meaning
======= ============== ==================================================
H_0     ``features``   [B, m, d], rows beyond a clip's length are padding
F       the module     two layers of width ``width``
h^      the result     [B, d], the predicted mean feature
======= ============== ==================================================

**Unstated** in the thesis: heads (4), the width of the feed-forward layers ("hidden dimension 2,048" is the size of the
features there; here ``width``, the size inside), CLS tokens (none), positions. The networks see no position of their
own: what a frame's time may say is part of its feature (`clip_search.clip_features`), so that a permutation of
features leaves the prediction as it is.
"""

from __future__ import annotations

import torch
from torch import nn

from tamis.core.checks import check_choice, check_int

__all__ = ["MAPS", "MlpMap", "TransformerMap", "make_map"]


class TransformerMap(nn.Module):
    """Transformer layers and the mean over the frames that are there.

    Args:
        dim: d.
        width: size inside; a multiple of 4.
        dropout: in the layers.
    """

    def __init__(self, dim: int, width: int = 128, dropout: float = 0.1) -> None:
        super().__init__()
        self.inside = nn.Linear(dim, width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.outside = nn.Linear(width, dim)

    def forward(self, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Predict the mean feature of the best combination, Eq. (5.2) and (5.3).

        Args:
            features: float [B, m, d].
            mask: bool [B, m], True where a frame is.

        Returns:
            float [B, d].
        """
        hidden = self.layers(self.inside(features), src_key_padding_mask=~mask)
        result: torch.Tensor = self.outside(masked_mean(hidden, mask))
        return result


class MlpMap(nn.Module):
    """The mean over the frames, then two layers.

    Args:
        dim: d.
        width: size inside.
        dropout: in the layers, in [0, 1).
    """

    def __init__(self, dim: int, width: int = 128, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, dim))

    def forward(self, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """As `TransformerMap.forward`.

        Args:
            features: float [B, m, d].
            mask: bool [B, m], True where a frame is.
        """
        result: torch.Tensor = self.layers(masked_mean(features, mask))
        return result


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean over the frames that are there.

    Args:
        values: [B, m, d].
        mask: [B, m] bool, at least one True a row.

    Returns:
        [B, d]
    """
    weights = mask.to(values.dtype).unsqueeze(-1)
    return (values * weights).sum(1) / weights.sum(1)


_KINDS: dict[str, type[TransformerMap] | type[MlpMap]] = {"transformer": TransformerMap, "mlp": MlpMap}
MAPS = tuple(_KINDS)


def make_map(kind: str, dim: int, width: int, *, dropout: float = 0.1, seed: int | None = None) -> nn.Module:
    """A mapping network.

    Args:
        kind: one of `MAPS`.
        dim: d, >= 1.
        width: size inside, a multiple of 4.
        dropout: in the layers, in [0, 1).
        seed: its weights are a function of it; None draws them from torch's global generator.

    Raises:
        ValueError: unknown kind, or a width that the heads do not divide.
    """
    check_choice("kind", kind, MAPS)
    if check_int("width", width, low=4) % 4:
        raise ValueError(f"width={width}: must be a multiple of 4, the number of heads")
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        return _KINDS[kind](dim, width, dropout)
