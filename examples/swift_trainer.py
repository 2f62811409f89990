"""Swift Sampler with Hugging Face Trainer: search a law, then train with it. ``python examples/swift_trainer.py``.

scikit-learn's digits, 40 % of the training labels wrong; validation labels are as noisy, the test set is clean.
"""

from __future__ import annotations

import argparse

import torch
from swift_plain_loop import make_data, make_model
from torch import nn
from transformers import PrinterCallback, Trainer, TrainingArguments

from tamis.callbacks import attach
from tamis.features import sample_features
from tamis.samplers import SwiftSampler
from tamis.search import search_swift


class Classifier(nn.Module):
    """What Trainer wants: keywords in, ``loss`` and ``logits`` out."""

    def __init__(self) -> None:
        super().__init__()
        self.network = make_model()

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.network(x)
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def rows(data: torch.utils.data.TensorDataset) -> list[dict[str, torch.Tensor]]:
    return [{"x": x, "labels": y} for x, y in data]


def accuracy(prediction) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--out", default="runs/swift_trainer")
    options = parser.parse_args()
    train, valid, test = (rows(part) for part in make_data()[:3])

    def trainer_for(model: nn.Module, epochs: int, held_out) -> Trainer:
        arguments = TrainingArguments(
            output_dir=options.out + "/trainer",
            num_train_epochs=epochs,
            per_device_train_batch_size=50,
            learning_rate=3e-3,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        made = Trainer(model, arguments, train_dataset=train, eval_dataset=held_out, compute_metrics=accuracy)
        made.remove_callback(PrinterCallback)
        return made

    # 1. shared weights, early, and what they say about each sample
    model = Classifier()
    trainer_for(model, 2, valid).train()
    features = sample_features(model, train)

    # 2. the objective returns a Trainer; the search trains it, reads the metric, and puts the weights back
    def objective(sampler: SwiftSampler) -> Trainer:
        trainer = trainer_for(model, 3, valid)
        attach(trainer, sampler)
        return trainer

    policy = search_swift(
        objective, features, model=model, metric="eval_accuracy", trials=options.trials, out=options.out
    )
    print(policy.summary())

    # 3. from scratch, with the law and without
    for name, sampler in (("uniform", None), ("Swift Sampler", SwiftSampler(policy, features, seed=0))):
        trainer = trainer_for(Classifier(), 15, test)
        if sampler is not None:
            attach(trainer, sampler)
        trainer.train()
        print(f"{name}: clean test accuracy {trainer.evaluate()['eval_accuracy']:.3f}")


if __name__ == "__main__":
    main()
