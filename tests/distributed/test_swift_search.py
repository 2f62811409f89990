"""Two real processes: the features, the search and its journal are those of one process."""

import json
import warnings

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import TensorDataset

from tamis.core.errors import TamisError
from tamis.core.rng import torch_generator
from tamis.features.samples import sample_features
from tamis.search import search_swift
from tamis.testing import run_distributed

N = 101  # odd, so that the two ranks' stretches differ


def data_and_model():
    generator = torch_generator(0)
    model = torch.nn.Linear(5, 3)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    y = torch.randint(3, (N,), generator=generator)
    return TensorDataset(torch.randn(N, 5, generator=generator), y), model


def fine_tuning(data, model):
    def fit(sampler):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for batch in torch.tensor(list(sampler)).split(20):
            optimizer.zero_grad()
            x, y = (column[batch] for column in data.tensors)
            torch.nn.functional.cross_entropy(torch.nn.functional.dropout(model(x), 0.1), y).backward()
            optimizer.step()
        with torch.no_grad():
            return float((model(data.tensors[0]).argmax(1) == data.tensors[1]).float().mean())

    return fit


def search(out=None, **options):
    torch.set_num_threads(1)
    data, model = data_and_model()
    features = sample_features(model, data, batch_size=16)
    policy = search_swift(
        fine_tuning(data, model), features, model=model, trials=12, optimizer="tpe", parallel=2, out=out, **options
    )
    return {
        "features": features.digest(),
        "policy": policy.digest(),
        "score": policy.search.score,
        "budget": policy.search.budget,
        "world": dist.get_world_size() if dist.is_initialized() else 1,
    }


def search_together(out=None):
    return search(out, spread=False)


def search_with_a_trainer():
    """A Trainer uses all processes by itself, so whole trials cannot be dealt to them."""

    class Trainer:
        def train(self):
            raise AssertionError("never reached")

        evaluate = train

    data, model = data_and_model()
    try:
        search_swift(lambda sampler: Trainer(), sample_features(model, data), trials=2, optimizer="random")
    except (TamisError, RuntimeError) as error:
        return str(error)
    return "no error"


def without_world(result):
    return {key: value for key, value in result.items() if key != "world"}


def test_two_processes_find_what_one_finds(tmp_path):
    one = search(tmp_path / "one")
    for name in ("search", "search_together"):
        two = run_distributed(f"tests.distributed.test_swift_search:{name}", nproc=2, out=str(tmp_path / name))
        assert [result["world"] for result in two] == [2, 2]
        assert without_world(two[0]) == without_world(two[1]) == without_world(one)
        lines = [(tmp_path / folder / "journal.jsonl").read_text().splitlines() for folder in ("one", name)]
        assert lines[0] == lines[1]
        assert len(lines[0]) == 1 + 12 + 2 + 2  # and the winner and the uniform law twice more


def test_two_processes_go_on_from_the_journal_of_one(tmp_path):
    one = search(tmp_path)
    journal = tmp_path / "journal.jsonl"
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-4]) + lines[-4][:30])  # in the midst of a batch, and of a line
    two = run_distributed("tests.distributed.test_swift_search:search", nproc=2, out=str(tmp_path))
    assert without_world(two[0]) == without_world(one)
    assert sorted(journal.read_bytes().splitlines()) == sorted(whole.splitlines())
    assert json.loads(journal.read_text().splitlines()[0])["config"]["parallel"] == 2


def test_a_trainer_needs_the_processes_to_stay_together():
    for message in run_distributed("tests.distributed.test_swift_search:search_with_a_trainer", nproc=2):
        assert "pass spread=False" in message


def test_no_warning_in_one_process():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(search()["score"])
