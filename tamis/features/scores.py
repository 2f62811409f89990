"""Hand-written curricula: what a learned one has to beat. Each maps features to scores, higher is more wanted.

| scorer | wants | source |
|---|---|---|
| `Length` | long samples | Platanios et al., 2019 |
| `Rarity` | rare words: -sum log f(w) | Platanios et al., 2019 |
| `LogLikelihood` | what the model finds likely (or, with ``sign=-1``, unlikely) | - |
| `LossDifference` | what a second model finds likelier than the model in training | below |
| `Alignment` | a gradient along that of trusted data | Wang et al., 2020 |

`LossDifference` is two methods, by its second model: fine-tuned on trusted data it is the denoising curriculum of Wang
et al., 2018 ("Denoising neural machine translation training with trusted data and online data selection"); trained on
held-out data only it is RHO-LOSS (Mindermann et al., 2022), the reducible loss.

    base = curriculum_features(data, text=["de", "en"], model=model, collate=collate)
    both = base.with_group("trusted", log_likelihoods(tuned, data, collate=collate), ("sum", "per_token"))
    sampler = CurriculumSampler(LossDifference("trusted"), both, pool=16)
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tamis.features.table import FeatureTable

__all__ = ["Alignment", "Length", "LogLikelihood", "LossDifference", "Rarity"]


@dataclass(frozen=True)
class Length:
    """Tokens of all text columns (``sign=-1``: the fewest)."""

    sign: int = 1

    def __call__(self, features: FeatureTable) -> Tensor:
        return self.sign * features.groups["length"].sum(1)


@dataclass(frozen=True)
class Rarity:
    """-sum log f(w) over the words of ``text`` (default: of the first text column); ``sign=-1``: the commonest."""

    text: str | None = None
    sign: int = 1

    def __call__(self, features: FeatureTable) -> Tensor:
        side = self.text or features.layout["length"][0]
        mean = features.column("rarity", f"{side}.1-gram.mean")
        return self.sign * mean * features.column("length", side)


@dataclass(frozen=True)
class LogLikelihood:
    """Log-likelihood per token, or the sum; ``sign=-1``: the unlikely."""

    per_token: bool = True
    sign: int = 1

    def __call__(self, features: FeatureTable) -> Tensor:
        return self.sign * features.column("log_likelihood", "per_token" if self.per_token else "sum")


@dataclass(frozen=True)
class LossDifference:
    """Loss of the model in training minus that of a second model, per token: denoising, or the reducible loss.

    Attributes:
        second: group of the second model's log-likelihoods (columns ``sum``, ``per_token``).
    """

    second: str

    def __call__(self, features: FeatureTable) -> Tensor:
        return features.column(self.second, "per_token") - features.column("log_likelihood", "per_token")


@dataclass(frozen=True)
class Alignment:
    """Inner product of the sample's gradient with the validation gradient.

    Attributes:
        group: a group of one column that holds `first_order_rewards` of the samples.
    """

    group: str = "alignment"

    def __call__(self, features: FeatureTable) -> Tensor:
        return features.groups[self.group][:, 0]
