"""A task for vetoes whose answer is known: a mirror image of "left" is "right"; "both" stays what it is."""

import sys

import torch
from torch import nn

from tamis.core.rng import torch_generator
from tamis.search import search_label_aware

CLASSES = ("left", "right", "both")


def sides(each=20, seed=0):
    """Images whose left half, right half or whole is bright, with noise: uint8 [3 * each, 3, 8, 8] and labels."""
    noise = 60 * torch.rand(3 * each, 3, 8, 8, generator=torch_generator(seed, 1))
    labels = torch.arange(3 * each) % 3
    noise[labels != 1, :, :, :4] += 150
    noise[labels != 0, :, :, 4:] += 150
    return noise.to(torch.uint8), labels


class BySide(nn.Module):
    """Tells them apart by the brightness of the halves; nothing is trained."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(12.0))

    def forward(self, images):
        left, right = images[..., :4].mean((1, 2, 3)), images[..., 4:].mean((1, 2, 3))
        return self.weight * torch.stack([left - right, right - left, 0.3 + 0 * left], 1)


def fit(augment, fold, share):
    """A judge that needs no training."""
    return BySide()


def find(model=None, data=None, **options):
    """A search with the toy task."""
    given = {"trained_with": "randaugment", "add": ["HorizontalFlip", "VerticalFlip"], "classes": CLASSES, **options}
    return search_label_aware(model or BySide(), data or sides(), **given)


def distributed_search(out):
    """Run by torchrun: the policy's strengths and doubts."""
    policy = find(out=out, trained_with="geometry", fit=fit, batch_size=7)
    return {"strengths": policy.strengths.tolist(), "doubts": policy.doubts.tolist()}


if __name__ == "__main__":
    find(out=sys.argv[1])
