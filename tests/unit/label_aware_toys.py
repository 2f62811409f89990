"""A task for search_label_aware whose answer is known: Invert swaps two of the three classes and spares the third."""

import time

import torch
from torch import nn

from tamis.core.rng import torch_generator
from tamis.optimizers.predictor import PredictorConfig
from tamis.search import search_label_aware

CLASSES = ("bright", "dark", "busy")
QUICK = PredictorConfig(ensemble=2, width=16, epochs=40)


def pictures(each=20, seed=0):
    """Flat bright, flat dark, and noisy 8x8 images: uint8 [3 * each, 3, 8, 8] and their labels."""
    noise = torch.rand(3 * each, 3, 8, 8, generator=torch_generator(seed))
    labels = torch.arange(3 * each) % 3
    level = torch.tensor([210.0, 45.0, 127.0])[labels].view(-1, 1, 1, 1)
    spread = torch.tensor([20.0, 20.0, 250.0])[labels].view(-1, 1, 1, 1)
    return (level + spread * (noise - 0.5)).clamp(0, 255).to(torch.uint8), labels


class ByEye(nn.Module):
    """Tells them apart by mean and spread; nothing is trained."""

    def __init__(self, delay=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.delay = delay

    def forward(self, images):
        if self.delay:
            time.sleep(self.delay)
        mean, spread = images.mean((1, 2, 3)), images.std((1, 2, 3))
        return self.weight * torch.stack([mean - 0.5, 0.5 - mean, 4 * spread - 0.6], 1)


def search(model=None, data=None, **options):
    """A quick search with the toy task."""
    settings = {"iterations": 40, "warmup": 20, "triples": 12, "seed": 3, "batch_size": 16, "predictor": QUICK}
    given = {"base": "triples", "classes": CLASSES, **settings, **options}
    return search_label_aware(model or ByEye(), data or pictures(), **given)


def distributed_search(out):
    """Run by torchrun: the policy's triples and rewards, and what the journal holds."""
    policy = search(out=out)
    return {"triples": policy.triples.tolist(), "rewards": policy.rewards.tolist()}


if __name__ == "__main__":
    import sys

    search(ByEye(delay=0.01), out=sys.argv[1])
