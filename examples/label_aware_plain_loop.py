"""Label-aware augmentation in a plain loop: which digits bear a flip? Search, look, train.

python examples/label_aware_plain_loop.py --out runs/label_aware
"""

from __future__ import annotations

import argparse
from pathlib import Path

from digit_images import DigitImages, accuracy, fit, make_net, to_input
from torch.utils.data import DataLoader, Dataset

from tamis.search import search_label_aware
from tamis.transforms import LabelAwareAugment, LabelAwareDataset, MenuPolicy


class Plain(Dataset):
    """The images as they are."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        image, label = self.data[index]
        return to_input(image), label


def main(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/label_aware"))
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args(argv)
    train = DigitImages("train")

    # a model that was trained with RandAugment, and never with a flip, judges which digits can be flipped
    usual = LabelAwareDataset(train, LabelAwareAugment(MenuPolicy.plain(train.classes)), transform=to_input)
    judge = fit(make_net(), DataLoader(usual, 64), args.epochs, set_epoch=usual.set_epoch)
    policy = search_label_aware(
        judge, DigitImages("reward"), trained_with="randaugment", add=["HorizontalFlip", "VerticalFlip"], out=args.out
    )
    print(policy.summary())
    policy.plot(args.out / "label_aware.png")

    dataset = LabelAwareDataset(train, LabelAwareAugment(policy), transform=to_input)
    net = fit(make_net(seed=1), DataLoader(dataset, 64), args.epochs, set_epoch=dataset.set_epoch)
    plain = fit(make_net(seed=1), DataLoader(Plain(train), 64), args.epochs)
    print(f"label-aware: test accuracy {accuracy(net):.3f}, without augmentation {accuracy(plain):.3f}")


if __name__ == "__main__":
    main()
