"""tamis: learn which data is worth training on, and which part of each input is worth keeping."""

from typing import TYPE_CHECKING

from tamis.core.errors import NoEffectWarning, NotPolarisedError, PolicyError, TamisError
from tamis.core.lazy import lazy
from tamis.core.version import __version__

if TYPE_CHECKING:
    from tamis.policy import DataInfo, Policy, SearchInfo, fingerprint, load_policy, register_policy
    from tamis.pruners import load_pruned

__all__ = [
    "DataInfo",
    "NoEffectWarning",
    "NotPolarisedError",
    "Policy",
    "PolicyError",
    "SearchInfo",
    "TamisError",
    "__version__",
    "fingerprint",
    "load_policy",
    "load_pruned",
    "register_policy",
]

_PARTS = ("callbacks", "core", "features", "optimizers", "policy", "pruners", "samplers", "search", "transforms")
_POLICY = ("DataInfo", "Policy", "SearchInfo", "fingerprint", "load_policy", "register_policy")
__getattr__ = lazy(__name__, {**dict.fromkeys(_POLICY, "tamis.policy"), "load_pruned": "tamis.pruners"}, _PARTS)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PARTS})
