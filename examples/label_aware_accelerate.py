"""Label-aware augmentation with a torchvision folder and Accelerate on several processes; the search is shared too.

torchrun --nproc_per_node 2 examples/label_aware_accelerate.py --out runs/label_aware_accelerate
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from digit_images import DigitImages, accuracy, fit, make_net, to_input
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from tamis.core import torch_generator
from tamis.search import search_label_aware
from tamis.transforms import LabelAwareAugment, LabelAwareDataset, MenuPolicy


def write_folder(part, root):
    """The digits as one folder a class."""
    data = DigitImages(part)
    for number, (image, label) in enumerate(data):
        (root / str(label)).mkdir(parents=True, exist_ok=True)
        image.save(root / str(label) / f"{number:04d}.png")


def main(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/label_aware_accelerate"))
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args(argv)

    accelerator = Accelerator(cpu=True)
    if accelerator.is_main_process:
        write_folder("train", args.out / "train")
    accelerator.wait_for_everyone()
    folder = ImageFolder(str(args.out / "train"))

    usual = LabelAwareDataset(folder, LabelAwareAugment(MenuPolicy.plain(folder.classes)), transform=to_input)
    loader = DataLoader(usual, 64, shuffle=True, generator=torch_generator(1))
    judge = fit(make_net(), loader, args.epochs, set_epoch=usual.set_epoch)
    policy = search_label_aware(  # each process takes some batches of every pass; all get the same policy
        judge, DigitImages("reward"), trained_with="randaugment", add=["HorizontalFlip", "VerticalFlip"],
        out=args.out / "policy",
    )  # fmt: skip

    after = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    dataset = LabelAwareDataset(folder, LabelAwareAugment(policy), transform=after)
    net = make_net(seed=1)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    loader = DataLoader(dataset, 32, shuffle=True)
    model, optimizer, loader = accelerator.prepare(net, optimizer, loader)
    for epoch in range(args.epochs):
        dataset.set_epoch(epoch)
        for images, labels in loader:
            accelerator.backward(nn.functional.cross_entropy(model(images), labels))
            optimizer.step()
            optimizer.zero_grad()
    accelerator.print(f"{accelerator.num_processes} processes: label-aware test accuracy {accuracy(net):.3f}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
