"""The part of the agent that chooses: the feature network and the actor, one score a sample.

M. Zhao et al., AAAI 2020 (thesis, section 3.4.1 and figure 3.3). Every sample of a pool goes through the same weights,
so the scores follow any permutation of the pool, and an agent trained on pools of 16 serves pools of 128.

**Unstated** in the paper: whether the widths 16 and 32 are per vector or per group of vectors; here per group, so that
the state of a sample has 1 + 8 + 16 + 32 = 57 numbers. **Deviation**: the feature network's activation is a *leaky*
ReLU: the length has a single unit, and if that dies the length is lost for good.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tamis.core.rng import torch_generator

__all__ = ["WIDTHS", "Actor", "AgentNetwork", "FeatureNet", "Layers", "initialise"]

WIDTHS = {"length": 1, "log_likelihood": 8, "tags": 16, "rarity": 32}
OTHER_WIDTH = 8  # for a group of the user's own
LEAK = 0.01


class FeatureNet(nn.Module):
    """Each group of features through its own layer, joined: [..., D] -> [..., S].

    Args:
        groups: name -> number of columns, in the order of the D columns.
        widths: name -> outputs; default `WIDTHS`.
    """

    def __init__(self, groups: Mapping[str, int], widths: Mapping[str, int] | None = None) -> None:
        super().__init__()
        self.sizes = list(groups.values())
        outputs = [{**WIDTHS, **(widths or {})}.get(name, OTHER_WIDTH) for name in groups]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(self.sizes, outputs, strict=True))
        self.width = sum(outputs)

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, self.sizes, -1)
        joined = torch.cat([layer(part) for layer, part in zip(self.layers, parts, strict=True)], -1)
        return nn.functional.leaky_relu(joined, LEAK)


class Layers(nn.Module):
    """Two ReLU layers and one output; ``extra`` numbers join before the second: [..., S] -> [...].

    Args:
        width: S, the numbers of a state.
        hidden: widths of the two layers.
        extra: how many numbers join.
    """

    def __init__(self, width: int, hidden: tuple[int, int], extra: int = 0) -> None:
        super().__init__()
        first, second = hidden
        self.layers = nn.ModuleList([nn.Linear(width, first), nn.Linear(first + extra, second), nn.Linear(second, 1)])

    def forward(self, state: Tensor, extra: Tensor | None = None) -> Tensor:
        x = self.layers[0](state).relu()
        x = x if extra is None else torch.cat([x, extra], -1)
        score: Tensor = self.layers[2](self.layers[1](x).relu()).squeeze(-1)
        return score


class Actor(Layers):
    """mu: the score of each sample; the action is the softmax over the pool, what is executed its largest."""


class AgentNetwork(nn.Module):
    """Feature network and actor: standardised features [..., D] -> scores [...].

    Args:
        groups: name -> number of columns, in the order of the D columns.
        hidden: widths of the actor's two layers.
        widths: name -> outputs of the group's layer; default `WIDTHS`.
    """

    def __init__(
        self, groups: Mapping[str, int], hidden: tuple[int, int] = (300, 400), widths: Mapping[str, int] | None = None
    ) -> None:
        super().__init__()
        self.features = FeatureNet(groups, widths)
        self.actor = Actor(self.features.width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        score: Tensor = self.actor(self.features(x))
        return score


def initialise(module: nn.Module, *key: int) -> None:
    """Draw every linear layer's weights as torch does by default, from the stream named by ``key``.

    Args:
        module: whose linear layers are drawn anew.
        key: integers that name the random stream.
    """
    generator = torch_generator(*key)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                bound = 1 / math.sqrt(layer.in_features)
                for parameter in (layer.weight, layer.bias):
                    parameter.uniform_(-bound, bound, generator=generator)
