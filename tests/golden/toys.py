"""Two kinds of policy for the tests: every allowed annotation, and none but JSON."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from tamis import DataInfo, Policy, PolicyError, SearchInfo, register_policy


@dataclass(frozen=True, kw_only=True)
class Range:
    low: float
    high: float | None = None

    def __post_init__(self) -> None:
        if self.high is not None and self.high < self.low:
            raise ValueError(f"high={self.high}: must be >= low={self.low}")


@register_policy("toy")
@dataclass(frozen=True, kw_only=True)
class ToyPolicy(Policy):
    steps: int
    rate: float = 0.5
    name: str = "toy"
    mirrored: bool = False
    limit: int | None = None
    ops: tuple[str, ...] = ()
    pair: tuple[int, float] = (0, 0.0)
    sizes: dict[str, int] = field(default_factory=dict)
    nested: dict[str, tuple[Range, ...]] = field(default_factory=dict)
    weights: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    kept: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: must be >= 1")


@register_policy("toy_plain")
@dataclass(frozen=True, kw_only=True)
class PlainPolicy(Policy):
    """Schema 2 renamed ``rates`` to ``magnitudes`` and counts them in per cent."""

    schema = 2
    magnitudes: tuple[float, ...]

    @classmethod
    def migrate(
        cls, spec: dict[str, Any], tensors: dict[str, torch.Tensor], schema: int
    ) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        return {"magnitudes": [100 * rate for rate in spec["rates"]]}, tensors


def toy() -> ToyPolicy:
    return ToyPolicy(
        steps=3,
        rate=0.1,
        name="größe",
        mirrored=True,
        limit=None,
        ops=("flip", "rotate"),
        pair=(2, 0.25),
        sizes={"user.id": 4, "item": 7},
        nested={"a": (Range(low=0.0, high=1.0), Range(low=-1.5))},
        weights=torch.linspace(-1, 1, 12).reshape(3, 4),
        kept={"emb.user": torch.tensor([0, 2, 5]), "emb.item": torch.tensor([True, False])},
        data=DataInfo(n=10, classes=("cat", "dog"), fingerprint="sha256:00"),
        search=SearchInfo(seed=7, budget={"trials": 20}, score=0.75, config={"lr": 0.1, "kind": "x", "k": None}),
    )


def plain() -> PlainPolicy:
    return PlainPolicy(magnitudes=(10.0, 25.0))


def same(left: Policy, right: Policy) -> bool:
    """Equal, provenance included."""
    return left == right and (left.data, left.search) == (right.data, right.search)


__all__ = ["PlainPolicy", "PolicyError", "Range", "ToyPolicy", "plain", "replace", "same", "toy"]
