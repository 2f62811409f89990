"""tamis: learn which data is worth training on, and which part of each input is worth keeping."""

from tamis.core.errors import NoEffectWarning, NotPolarisedError, PolicyError, TamisError
from tamis.core.version import __version__
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
