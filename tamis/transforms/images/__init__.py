"""Operations on images: what they are, and kernels for PIL images and tensors."""

from tamis.transforms.images.apply import apply_operations
from tamis.transforms.images.ops import OPERATIONS

__all__ = ["OPERATIONS", "apply_operations"]
