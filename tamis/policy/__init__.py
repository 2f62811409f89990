"""Policies: what a search found, as a folder that can be reviewed in a diff, trusted on load, and shared."""

from tamis.policy.base import Policy, load_policy, register_policy
from tamis.policy.info import DataInfo, SearchInfo, describe_data, fingerprint

__all__ = ["DataInfo", "Policy", "SearchInfo", "describe_data", "fingerprint", "load_policy", "register_policy"]
