"""Label-aware augmentation with Hugging Face Trainer and `datasets`.

python examples/label_aware_trainer.py --out runs/label_aware_trainer
"""

from __future__ import annotations

import argparse
from pathlib import Path

import datasets
import torch
from digit_images import CLASSES, DigitImages, accuracy, fit, make_net, to_input
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from tamis.callbacks import attach
from tamis.search import search_label_aware
from tamis.transforms import LabelAwareAugment, LabelAwareDataset, MenuPolicy

FEATURES = datasets.Features(
    {"img": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES)), "row": datasets.Value("int64")}
)


class WithLoss(nn.Module):
    """The net in the form that Trainer expects."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, pixel_values, labels):
        logits = self.net(pixel_values)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def collate(rows):
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([row["label"] for row in rows]),
    }


def main(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/label_aware_trainer"))
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args(argv)
    part = DigitImages("train")

    usual = LabelAwareDataset(part, LabelAwareAugment(MenuPolicy.plain(CLASSES)), transform=to_input)  # RandAugment
    judge = fit(make_net(), DataLoader(usual, 64), args.epochs, set_epoch=usual.set_epoch)
    policy = search_label_aware(
        judge, DigitImages("reward"), trained_with="randaugment", add=["HorizontalFlip", "VerticalFlip"],
        out=args.out / "policy",
    )  # fmt: skip

    rows = {"img": part.images, "label": part.labels, "row": list(range(len(part)))}
    train = datasets.Dataset.from_dict(rows, features=FEATURES)
    augment = LabelAwareAugment(policy)
    train = train.with_transform(augment.for_datasets(image="img", index="row", then=to_input, out="pixel_values"))
    net = make_net(seed=1)
    settings = TrainingArguments(
        str(args.out), num_train_epochs=args.epochs, per_device_train_batch_size=64, learning_rate=3e-3, report_to=[],
        save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True,
        remove_unused_columns=False,  # or Trainer drops the image before the transform sees it
    )  # fmt: skip
    trainer = Trainer(WithLoss(net), settings, train_dataset=train, data_collator=collate)
    attach(trainer, augment)  # tells it the epoch, on which its draws depend; running workers see it too
    trainer.train()
    print(f"label-aware with Trainer: test accuracy {accuracy(net):.3f}")


if __name__ == "__main__":
    main()
