"""Small label-aware setups, importable by name so that spawned workers and torchrun's processes can build them too."""

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from tamis.core.rng import numpy_generator
from tamis.transforms import LabelAwareAugment, LabelAwareDataset, LabelAwarePolicy, MenuPolicy

CLASSES = ("cat", "dog", "ship")


class Pictures(Dataset):
    """24 small images of three classes, as PIL or uint8 tensors."""

    def __init__(self, tensors=False, size=(12, 10)):
        self.classes = list(CLASSES)
        noise = numpy_generator(8).integers(0, 256, (24, size[1], size[0], 3)).astype(np.uint8)
        self.tensors = torch.from_numpy(noise).permute(0, 3, 1, 2).contiguous() if tensors else None
        self.images = [Image.fromarray(array) for array in noise]

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return (self.images[index] if self.tensors is None else self.tensors[index]), index % 3


def make_policy(seed=0, count=20, **values):
    triples = torch.from_numpy(numpy_generator(seed, 1).integers(0, 16, (3, count, 3)).astype(np.uint8))
    return LabelAwarePolicy(**{"classes": CLASSES, "triples": triples, **values})


def make_menu_policy(seed=0, add=("HorizontalFlip", "Invert")):
    """RandAugment and more, each operation kept from some class or milder."""
    plain = MenuPolicy.plain(CLASSES, add=add)
    strengths = torch.from_numpy(numpy_generator(seed, 2).choice([0.0, 1 / 3, 1.0], plain.strengths.shape)).float()
    strengths[:, 0] = 1
    return MenuPolicy(classes=CLASSES, base=plain.base, strengths=strengths, added=plain.added, chances=plain.chances)


def make_menu_pil(seed=0):
    return LabelAwareDataset(Pictures(), LabelAwareAugment(make_menu_policy(), seed=seed))


def make_menu_tensors(seed=0):
    policy = make_menu_policy(add={"HorizontalFlip": 0.5})
    return LabelAwareDataset(Pictures(tensors=True), LabelAwareAugment(policy, seed=seed), copies=2)


def make_pil(seed=0):
    return LabelAwareDataset(Pictures(), LabelAwareAugment(make_policy(), seed=seed))


def make_tensors(seed=0):
    return LabelAwareDataset(Pictures(tensors=True), LabelAwareAugment(make_policy(), seed=seed), copies=2)
