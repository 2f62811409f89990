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

__all__ = ["RHO", "Alignment", "Denoising", "Length", "LogLikelihood", "LossDifference", "Rarity"]


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
class Denoising:
    """By how much a copy of the model that was tuned on trusted data likes the sample better: high is clean.

    Wang et al., 2018, "Denoising neural machine translation training with trusted data and online data selection",
    arXiv:1809.00068.

    Attributes:
        tuned: losses of the copy: a column of them, or a group of log-likelihoods (columns ``sum``, ``per_token``).
        loss: the same of the model before it was tuned; default: ``loss`` or ``log_likelihood``, whichever is there.
    """

    tuned: str
    loss: str | None = None

    def __call__(self, features: FeatureTable) -> Tensor:
        """Score of every sample, float [n].

        Args:
            features: holds both losses.

        Raises:
            KeyError: one of them is missing.
        """
        return _losses(features, self.loss) - _losses(features, self.tuned)


@dataclass(frozen=True)
class RHO:
    """The reducible holdout loss: what the model in training still loses above a model of held-out data.

    Mindermann et al., 2022, "Prioritized training on points that are learnable, worth learning, and not yet learnt",
    arXiv:2206.07137. There the loss is that of the model as it is at each batch: renew the column now and then, or
    give the difference to `BatchSelector` inside the loop.

    Attributes:
        irreducible: losses of the model that was trained on held-out data only: a column, or a group of
            log-likelihoods (columns ``sum``, ``per_token``).
        loss: the same of the model in training; default: ``loss`` or ``log_likelihood``, whichever is there.
    """

    irreducible: str
    loss: str | None = None

    def __call__(self, features: FeatureTable) -> Tensor:
        """Score of every sample, float [n].

        Args:
            features: holds both losses.

        Raises:
            KeyError: one of them is missing.
        """
        return _losses(features, self.loss) - _losses(features, self.irreducible)


@dataclass(frozen=True)
class Alignment:
    """Inner product of the sample's gradient with the validation gradient.

    Attributes:
        group: a group of one column that holds `first_order_rewards` of the samples.
    """

    group: str = "alignment"

    def __call__(self, features: FeatureTable) -> Tensor:
        return features.groups[self.group][:, 0]


def _losses(features: FeatureTable, name: str | None) -> Tensor:
    """The losses in a column, or minus the log-likelihoods per token in a group: float [n]."""
    if name is None:
        name = "loss" if "loss" in features else "log_likelihood"
    if features.layout.get(name) == ("sum", "per_token"):
        return -features.column(name, "per_token")
    return features[name]
