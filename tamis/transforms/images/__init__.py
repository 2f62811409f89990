"""Operations on images: what they are, and kernels for PIL images and tensors."""

from tamis.transforms.images.apply import apply_operations
from tamis.transforms.images.menu import add_operation, make_menu
from tamis.transforms.images.ops import OPERATIONS

__all__ = ["OPERATIONS", "add_operation", "apply_operations", "make_menu"]
