"""What the label_aware_* examples share: scikit-learn's digits as small PIL images, and a small net."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Dataset

from tamis.core import numpy_generator, torch_generator

CLASSES = tuple(str(digit) for digit in range(10))
PARTS = {"train": slice(0, 800), "reward": slice(800, 1200), "test": slice(1200, None)}


class DigitImages(Dataset):
    """One of three disjoint parts, as (16x16 RGB PIL image, label)."""

    def __init__(self, part):
        digits = load_digits()
        rows = numpy_generator(0, 1).permutation(len(digits.target))[PARTS[part]]
        scaled = (digits.images[rows] / 16 * 255).round().astype(np.uint8)
        self.images = [Image.fromarray(image).resize((16, 16)).convert("RGB") for image in scaled]
        self.labels = digits.target[rows].tolist()
        self.classes = list(CLASSES)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.images[index], self.labels[index]


def to_input(image):
    """A PIL image as float [3, 16, 16] in [0, 1]."""
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()).float() / 255


def make_net(seed=0):
    """A convolution and two linear layers."""
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )  # fmt: skip
    generator = torch_generator(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            bound = (parameter[0].numel() if parameter.ndim > 1 else 64) ** -0.5
            parameter.uniform_(-bound, bound, generator=generator)
    return net


def fit(net, loader, epochs, set_epoch=None):
    """A plain loop: Adam, cross-entropy."""
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for epoch in range(epochs):
        if set_epoch is not None:
            set_epoch(epoch)
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
    return net


@torch.no_grad()
def accuracy(net, part="test"):
    """The share of a part that the net recognises."""
    data = DigitImages(part)
    images = torch.stack([to_input(image) for image in data.images])
    return float((net(images).argmax(1) == torch.tensor(data.labels)).float().mean())
