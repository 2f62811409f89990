"""What `consensus_loss` keeps belongs to its data, loss and collator; data that nothing is known of keeps nothing."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tamis.core.errors import TamisError
from tamis.core.rng import torch_generator
from tamis.features import consensus_loss
from tamis.features.cache import function_print
from tamis.features.data import fingerprint_dataset

FITS = []


class Tagger(nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.table = nn.Embedding(7, 7)
        with torch.no_grad():
            self.table.weight.copy_(torch.randn(7, 7, generator=torch_generator(seed)))

    def forward(self, x, labels=None):
        return self.table(x)


def fit(indices, seed):
    FITS.append(seed)
    return Tagger(seed)


def texts(seed, lengths=False):
    """Token sequences with a label a token; of several lengths if asked."""
    generator = torch_generator(seed)
    sizes = [3 + k % 3 if lengths else 4 for k in range(16)]
    x = [torch.randint(0, 7, (size,), generator=torch_generator(1)) for size in sizes]
    return [{"x": a, "labels": torch.randint(0, 7, (len(a),), generator=generator)} for a in x]


def padded(items):
    size = max(len(item["x"]) for item in items)

    def pad(name, value):
        return torch.stack([F.pad(item[name], (0, size - len(item[name])), value=value) for item in items])

    return {"x": pad("x", 0), "labels": pad("labels", -100)}


def run(data, folder=None, **options):
    """The losses, and how many fits they took."""
    before = len(FITS)
    table = consensus_loss(data, fit, out=folder, **{"folds": 2, "rounds": 1, "loss": "seq2seq", **options})
    return table["out_of_fold_loss"], len(FITS) - before


@pytest.mark.parametrize("lengths", [False, True])
def test_other_labels_of_sequences_are_other_data(tmp_path, lengths):
    options = {"collate": padded} if lengths else {}
    losses, fits = run(texts(0, lengths), tmp_path, **options)
    assert fits == 2
    assert run(texts(0, lengths), tmp_path, **options)[1] == 0  # made anew, and the same
    others, fits = run(texts(2, lengths), tmp_path, **options)
    assert fits == 2
    assert not torch.equal(losses, others)
    changed = texts(0, lengths)
    changed[7]["labels"][0] = (changed[7]["labels"][0] + 1) % 7  # a single token of a single sample
    assert run(changed, tmp_path, **options)[1] == 2


def test_samples_without_labels_are_told_by_their_inputs(tmp_path):
    def of_input(model, batch):
        logits = model(batch["x"])
        return F.cross_entropy(logits.flatten(0, 1), batch["x"].flatten(), reduction="none").view(logits.shape[:2]).sum(
            1
        ), torch.full((len(batch["x"]),), 4)

    def data(token):
        rows = [{"x": item["x"]} for item in texts(0)]
        rows[5]["x"] = torch.tensor([token, 1, 2, 3])
        return rows

    assert [run(data(t), tmp_path, loss=of_input)[1] for t in (0, 0, 1)] == [2, 0, 2]


def test_another_loss_or_collator_is_not_given_the_first_ones_losses(tmp_path):
    def scaled(factor):
        def loss(model, batch):
            total = F.cross_entropy(model(batch["x"]).flatten(0, 1), batch["labels"].flatten(), reduction="none")
            return factor * total.view(len(batch["x"]), -1).sum(1), torch.full((len(batch["x"]),), 4)

        return loss

    data = texts(0)
    assert [run(data, tmp_path, loss=scaled(f))[1] for f in (1.0, 1.0, 2.0)] == [2, 0, 2]
    collators = [lambda items: padded(items), lambda items: padded(items), lambda items: padded(items[:])]
    assert [run(data, tmp_path, collate=c)[1] for c in collators] == [2, 0, 2]


def test_float_labels_are_not_rounded():
    x = torch.zeros(4, 2)
    low, high = (fingerprint_dataset(TensorDataset(x, torch.full((4,), value))) for value in (0.2, 0.4))
    assert low != high
    table_of = TensorDataset(x, torch.tensor([0, 1, 0, 1]))
    assert fingerprint_dataset(table_of) == fingerprint_dataset(table_of, table_of.tensors[1])


class Opaque:
    """Items that have no bytes to compare."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"x": object()}


def test_data_that_cannot_be_told_apart_keeps_nothing(tmp_path):
    options = {
        "collate": lambda items: {"n": len(items)},
        "loss": lambda model, batch: (torch.arange(float(batch["n"])), torch.ones(batch["n"])),
    }
    with pytest.raises(TamisError, match=r"out=.*Opaque: has neither labels nor inputs .*leave out= out"):
        run(Opaque(), tmp_path, **options)
    table = consensus_loss(Opaque(), fit, folds=2, rounds=1, **options)
    assert table.fingerprint == ""


def test_classes_of_texts_of_several_lengths_are_known():
    """Rare classes stay in the second round although torch cannot join the inputs."""
    rows = [{"x": torch.arange(2 + k % 3), "labels": int(k >= 15)} for k in range(24)]
    seen = []

    class Mean(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.bias = nn.Parameter(torch.tensor([2.0, -2.0]) + 0.01 * torch.rand(2, generator=torch_generator(seed)))

        def forward(self, x, labels=None):
            return self.bias.expand(len(x), 2) + 0 * x.sum()

    def spy(indices, seed):
        seen.append({rows[i]["labels"] for i in indices})
        return Mean(seed)

    def joined(items):
        return {"x": torch.zeros(len(items), 1), "labels": torch.tensor([item["labels"] for item in items])}

    consensus_loss(rows, spy, folds=2, collate=joined)
    assert seen[2:] == [{0, 1}] * 2


def test_objects_and_partials_are_known_by_what_they_hold():
    class Collator:
        def __init__(self, size):
            self.size, self.other = size, object()

        def __call__(self, items):
            return items

    assert function_print(Collator(1)) == function_print(Collator(1)) != function_print(Collator(2))
    assert function_print(DataLoader.__iter__) != function_print(DataLoader.__len__)
