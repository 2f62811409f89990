"""The whole method with a real Hugging Face Trainer: features, search, sampler."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from tamis.callbacks import attach
from tamis.core.errors import TamisError
from tamis.core.rng import torch_generator
from tamis.samplers import SwiftSampler, sample_features
from tamis.search import search_swift

transformers = pytest.importorskip("transformers")


class Rows(Dataset):
    """Two clouds; a third of the labels are wrong."""

    def __init__(self, n, seed, wrong=0.0):
        generator = torch_generator(seed)
        self.labels = torch.randint(3, (n,), generator=generator)
        self.x = torch.randn(n, 6, generator=generator) + 2 * nn.functional.one_hot(self.labels, 6)
        flip = torch.rand(n, generator=generator) < wrong
        self.labels = torch.where(flip, (self.labels + 1) % 3, self.labels)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"x": self.x[index], "labels": self.labels[index]}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 3)
        generator = torch_generator(0)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator) / 3

    def forward(self, x, labels=None):
        logits = self.head(x)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def test_search_with_a_trainer_then_train_with_the_policy(tmp_path):
    train, held_out = Rows(120, 1, wrong=0.33), Rows(60, 2)
    model = Net()
    features = sample_features(model, train)
    features.check(train)
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path / "trainer"),
        num_train_epochs=1,
        per_device_train_batch_size=20,
        learning_rate=0.05,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )

    def objective(sampler):
        trainer = transformers.Trainer(model, args, train_dataset=train, eval_dataset=held_out)
        attach(trainer, sampler)
        return trainer

    shared = {name: value.clone() for name, value in model.state_dict().items()}
    options = {"model": model, "trials": 3, "optimizer": "random", "repeats": 0}
    policy = search_swift(objective, features, **options, out=tmp_path / "search")
    assert policy.search.score < 0  # minus eval_loss
    assert policy.search.budget["sample_forwards"] == 3 * 3 * 120 + 120
    assert all(torch.equal(value, shared[name]) for name, value in model.state_dict().items())
    assert search_swift(objective, features, **options).search == policy.search

    trainer = transformers.Trainer(model, args, train_dataset=train)
    attach(trainer, SwiftSampler(policy, features, seed=0))
    assert trainer.train().global_step == 6

    def forgetful(sampler):
        return transformers.Trainer(model, args, train_dataset=train, eval_dataset=held_out)

    with pytest.raises(TamisError, match="never drew from its sampler"):
        search_swift(forgetful, features, model=model, trials=1)
