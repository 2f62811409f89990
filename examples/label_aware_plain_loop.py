"""Label-aware augmentation in a plain loop: search a policy on digits, look at it, train with it.

python examples/label_aware_plain_loop.py --out runs/label_aware
"""

from __future__ import annotations

import argparse
from pathlib import Path

from digit_images import DigitImages, accuracy, fit, make_net, to_input
from torch.utils.data import DataLoader, Dataset

from tamis.search import search_label_aware
from tamis.transforms import LabelAwareAugment, LabelAwareDataset


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
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args(argv)
    train = DigitImages("train")

    # a model that has not seen the reward images judges which triples keep each class recognisable
    judge = fit(make_net(), DataLoader(Plain(train), 64), args.epochs)
    policy = search_label_aware(
        judge, DigitImages("reward"), iterations=args.iterations, warmup=args.iterations // 4, triples=50, out=args.out
    )
    print(policy.summary())
    policy.plot(args.out / "label_aware.png")

    dataset = LabelAwareDataset(train, LabelAwareAugment(policy), transform=to_input)
    net = fit(make_net(seed=1), DataLoader(dataset, 64), args.epochs, set_epoch=dataset.set_epoch)
    plain = fit(make_net(seed=1), DataLoader(Plain(train), 64), args.epochs)
    print(f"label-aware: test accuracy {accuracy(net):.3f}, without augmentation {accuracy(plain):.3f}")


if __name__ == "__main__":
    main()
