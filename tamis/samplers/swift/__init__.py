"""Swift Sampler: the law from features to weights, its policy and its sampler."""

from tamis.samplers.swift.law import SwiftLaw
from tamis.samplers.swift.sampler import SwiftPolicy, SwiftSampler

__all__ = ["SwiftLaw", "SwiftPolicy", "SwiftSampler"]
