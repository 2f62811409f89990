"""MixtureSampler: shares, passes, exhaustion, changes of weights, and what it says it drew."""

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset
from transformers import Trainer

from tamis import NoEffectWarning
from tamis.callbacks import attach
from tamis.samplers import MixtureSampler
from tamis.samplers.mixture.counts import block_counts, limited_counts
from tamis.samplers.mixture.sampler import BLOCK
from tamis.testing.toys import IndexedDataset, ToyModel
from tamis.testing.trainers import quiet_arguments

SOURCES = {"web": 1000, "books": 100, "code": 40}
WEIGHTS = {"web": 0.5, "books": 0.3, "code": 0.2}


def epochs(sampler, count):
    found = []
    for epoch in range(count):
        sampler.set_epoch(epoch)
        found.append(np.array(list(sampler)))
    return found


def counted(sampler, order):
    return np.bincount(sampler.source_of(order), minlength=len(sampler.names)).tolist()


def test_counts_are_the_share_rounded_and_right_on_average():
    rng = np.random.default_rng(0)
    shares = np.array([0.5, 0.0, 0.313, 0.187])
    counts = block_counts(shares, np.full(20_000, 7), rng.random(20_000))
    assert (counts.sum(1) == 7).all()
    assert (np.abs(counts - 7 * shares) < 1).all()
    assert np.abs(counts.mean(0) - 7 * shares).max() < 0.02
    edge = block_counts(shares, np.array([2**40]), np.array([1 - 2**-53]))
    assert edge.sum() == 2**40
    assert edge[0, 1] == 0


def test_limits_are_kept_and_filled_by_the_others():
    sizes = np.array([5, 50, 100])
    counts = limited_counts(np.full((10, 3), 1 / 3), np.full(10, 15), np.linspace(0, 0.9, 10), sizes)
    assert counts.sum(0).tolist() == [5, 50, 95]
    assert (counts.sum(1) == 15).all()
    assert counts[-1, 0] == 0


@pytest.mark.parametrize("size", [1140, 3 * BLOCK + 77])
def test_the_shares_are_kept_in_every_stretch(size):
    sampler = MixtureSampler(SOURCES, WEIGHTS, num_samples=size, seed=4)
    for order in epochs(sampler, 2):
        blocks = -(-size // BLOCK)
        assert np.abs(np.array(counted(sampler, order)) - size * np.array([0.5, 0.3, 0.2])).max() <= blocks
        for start in range(0, size - 1000, 5000):
            share = np.array(counted(sampler, order[start : start + 1000])) / 1000
            assert np.abs(share - [0.5, 0.3, 0.2]).max() < 0.07


def test_passes_go_on_over_the_epochs():
    sampler = MixtureSampler(SOURCES, WEIGHTS, seed=4)
    orders = np.concatenate(epochs(sampler, 3))
    for number, (name, size) in enumerate(SOURCES.items()):
        mine = orders[sampler.source_of(orders) == number]
        times = np.unique(mine, return_counts=True)[1]
        assert len(times) == size or name == "web"
        assert times.max() - (times.min() if len(times) == size else 0) <= 2  # block order hides where a pass ends


def test_stop_and_renormalise_give_no_item_twice():
    stop = MixtureSampler(SOURCES, WEIGHTS, exhausted="stop", seed=1)
    assert len(stop) == 200  # 40 / 0.2
    for order in epochs(stop, 2):
        assert len(set(order.tolist())) == 200
        assert counted(stop, order) == [100, 60, 40]
    rest = MixtureSampler(SOURCES, WEIGHTS, exhausted="renormalise", seed=1)
    for order in epochs(rest, 2):
        assert sorted(order.tolist()) == list(range(1140))
    only = MixtureSampler(SOURCES, {"web": 0, "books": 1, "code": 1}, exhausted="renormalise")
    assert sorted(only) == list(range(1000, 1140))
    for mode, most in (("stop", 200), ("renormalise", 1140)):
        with pytest.raises(ValueError, match=f"must be <= {most} with exhausted='{mode}'"):
            MixtureSampler(SOURCES, WEIGHTS, exhausted=mode, num_samples=2000)
    with pytest.raises(ValueError, match="they last for 50 draws, and an epoch has 200"):
        stop.set_weights({"web": 0.1, "books": 0.1, "code": 0.8})


def test_temperature_and_tokens():
    flat = MixtureSampler(SOURCES, temperature=1e9)
    assert np.allclose(list(flat.shares().values()), 1 / 3)
    assert np.isclose(MixtureSampler({"a": 900, "b": 100}, temperature=2).shares()["a"], 30 / 40)
    tokens = MixtureSampler(SOURCES, WEIGHTS, tokens_per_item={"web": 100, "books": 1000, "code": 500})
    share = np.array(list(tokens.shares().values())) * [100, 1000, 500]
    assert np.allclose(share / share.sum(), [0.5, 0.3, 0.2])


def test_weights_change_where_it_was_said():
    sampler = MixtureSampler({"a": 50, "b": 50}, {"a": 1, "b": 0}, seed=2)
    sampler.set_weights({"a": 0, "b": 1}, epoch=0, position=30)
    sampler.set_weights({"a": 0.25, "b": 0.75}, epoch=2)
    first, second, third = epochs(sampler, 3)
    assert (first[:30] < 50).all()
    assert (first[30:] >= 50).all()
    assert (second >= 50).all()
    assert counted(sampler, third) == [25, 75]
    assert sampler.shares(0, 29) == {"a": 1.0, "b": 0.0}
    assert sampler.shares(0, 30) == {"a": 0.0, "b": 1.0}
    with pytest.raises(ValueError, match=r"epoch=1: has begun, and its order is settled; must be >= 3"):
        sampler.set_weights({"a": 1, "b": 1}, epoch=1)
    sampler.set_weights({"a": 1, "b": 1e-9})
    sampler.set_epoch(3)
    assert counted(sampler, list(sampler))[0] >= 99


def test_a_schedule_is_one_function_and_its_state_comes_back():
    def weights(epoch):
        return {"a": 1.0, "b": float(epoch)}

    sampler = MixtureSampler({"a": 60, "b": 60}, weights, seed=2)
    orders = epochs(sampler, 4)
    assert [counted(sampler, order)[0] for order in orders] == [120, 60, 40, 30]
    state = sampler.state_dict()
    other = MixtureSampler({"a": 60, "b": 60}, {"a": 1, "b": 3}, seed=9)
    other.load_state_dict(state)
    assert [counted(other, order)[0] for order in epochs(other, 4)] == [120, 60, 40, 30]
    assert (np.array(epochs(other, 4)) == np.array(orders)).all()
    with pytest.raises(ValueError, match="change the function"):
        sampler.set_weights({"a": 1, "b": 1})
    with pytest.raises(ValueError, match="sizes"):
        MixtureSampler({"a": 60, "b": 61}, weights, num_samples=120).load_state_dict(state)


def test_what_was_drawn_is_what_is_said():
    sampler = MixtureSampler(SOURCES, WEIGHTS, num_samples=BLOCK + 500, seed=3)
    sampler.set_epoch(1)
    order = np.array(list(sampler))
    for position in (0, 1, 77, BLOCK - 1, BLOCK, BLOCK + 3, len(sampler)):
        assert list(sampler.drawn(position).values()) == counted(sampler, order[:position])
    assert sampler.drawn() == sampler.drawn(len(sampler))


def test_in_a_trainer_with_its_log(tmp_path):
    parts = {"web": IndexedDataset(30), "books": IndexedDataset(10)}
    sampler = MixtureSampler(parts, {"web": 1, "books": 1}, num_samples=40, seed=3)
    assert isinstance(sampler.dataset, ConcatDataset)
    arguments = quiet_arguments(tmp_path, per_device_train_batch_size=4, num_train_epochs=1, logging_steps=5)
    trainer = Trainer(ToyModel(), arguments, train_dataset=sampler.dataset)
    attach(trainer, sampler)
    trainer.train()
    assert sum(map(len, trainer.model.seen)) == 40
    logged = [entry["tamis/share_books"] for entry in trainer.state.log_history if "tamis/share_books" in entry]
    assert logged[-1] == 0.5
    assert logged[0] == sampler.drawn(20, epoch=0)["books"] / 20


def test_datasets_are_concatenated_as_the_indices_count():
    from datasets import Dataset

    parts = {"a": Dataset.from_dict({"x": [0, 1, 2]}), "b": Dataset.from_dict({"x": [10, 11]})}
    sampler = MixtureSampler(parts, {"a": 1, "b": 2}, num_samples=10)
    assert {sampler.dataset[i]["x"] >= 10 for i in list(sampler) if sampler.source_of(i) == 1} == {True}
    assert sampler.dataset["x"] == [0, 1, 2, 10, 11]


def test_bad_input():
    for arguments, words in [
        (({}, {}), "sources: must be a mapping"),
        (({"a": 0}, None), r"sources\['a'\]=0: must be >= 1"),
        ((SOURCES, {"web": 1}), "must name the sources"),
        ((SOURCES, {**WEIGHTS, "web": -1}), "web=-1: must be finite and >= 0"),
        ((SOURCES, dict.fromkeys(SOURCES, 0)), "all are 0"),
        ((SOURCES, [1, 2, 3]), "must be a mapping from each source"),
    ]:
        with pytest.raises((TypeError, ValueError), match=words):
            MixtureSampler(*arguments)
    with pytest.raises(TypeError, match="made from lengths"):
        _ = MixtureSampler(SOURCES, WEIGHTS).dataset
    with pytest.warns(NoEffectWarning, match="plain shuffle"):
        MixtureSampler(SOURCES)


def test_the_order_of_a_source_is_uniform():
    """First items of 3,000 seeds: chi-square over 10 items, 9 degrees of freedom, p = 1e-6 at 44.8."""
    firsts = [next(iter(MixtureSampler({"a": 10, "b": 5}, {"a": 1, "b": 0}, seed=seed))) for seed in range(3000)]
    counts = torch.bincount(torch.tensor(firsts), minlength=10).double()
    assert float(((counts - 300) ** 2 / 300).sum()) < 44.8
