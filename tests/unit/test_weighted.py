"""`WeightedSampler`: distribution, order, seek, state, weights that change, bad input. Seeds are fixed."""

import copy
import json
import math
import pickle  # noqa: TID251  (loaders pickle samplers under spawn)

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader

from tamis import NoEffectWarning
from tamis.core.rng import numpy_generator
from tamis.core.state import from_jsonable, to_jsonable
from tamis.samplers import WeightedSampler
from tamis.samplers.weighted.sampler import BLOCK

KINDS = {
    "independent": {},
    "systematic": {"method": "systematic"},
    "all": {"replacement": False},
    "some": {"replacement": False, "num_samples": 7},
    "more": {"num_samples": 83},
}
WEIGHTS = [3.0, 0.0, 1.0, 0.5, 2.0, 0.0, 4.0, 0.25, 1.0, 5.0, 0.125, 1.5]
OTHER = [0.0, 1.0, 9.0, 0.0, 1.0, 7.0, 1.0, 1.0, 2.0, 0.5, 1.0, 3.0]


def make(kind, weights=WEIGHTS, **kwargs):
    return WeightedSampler(weights, **{**KINDS[kind], "seed": 5, **kwargs})


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def test_defaults():
    assert len(WeightedSampler(WEIGHTS)) == 12
    assert len(WeightedSampler(WEIGHTS, replacement=False)) == 10
    assert len(make("more")) == len(list(make("more"))) == 83


def test_frequencies_are_the_weights_over_epochs_and_blocks():
    weights = numpy_generator(1).lognormal(0, 1.5, 300)
    weights[::7] = 0
    draws = 3 * BLOCK + 11
    for seed in range(4):
        sampler = WeightedSampler(weights, draws, seed=seed)
        counts = np.zeros(300)
        for epoch in range(3):
            sampler.set_epoch(epoch)
            counts += np.bincount(list(sampler), minlength=300)
        expected = 3 * draws * weights / weights.sum()
        drawn = expected > 0
        degrees = drawn.sum() - 1
        chi2 = ((counts - expected)[drawn] ** 2 / expected[drawn]).sum()
        assert abs(chi2 - degrees) < 4 * math.sqrt(2 * degrees)
        assert not counts[~drawn].any()


def test_neighbouring_draws_are_independent():
    sampler = WeightedSampler([1.0, 2.0, 3.0], 60_000, seed=2)
    order = np.asarray(list(sampler))
    pairs = np.bincount(3 * order[:-1] + order[1:], minlength=9)
    chances = np.array([1, 2, 3]) / 6
    expected = np.outer(chances, chances).ravel() * (len(order) - 1)
    assert ((pairs - expected) ** 2 / expected).sum() < 8 + 4 * 4


def test_zero_weights_are_never_drawn(kind):
    sampler = make(kind)
    for seed in range(100):
        sampler.seed = seed
        for epoch in range(3):
            sampler.set_epoch(epoch)
            assert not {1, 5} & set(sampler)


def test_without_replacement_nothing_comes_twice_and_fewer_are_the_first_of_all():
    whole, some = make("all"), make("some")
    for epoch in range(20):
        whole.set_epoch(epoch)
        some.set_epoch(epoch)
        order = list(whole)
        assert sorted(order) == [0, 2, 3, 4, 6, 7, 8, 9, 10, 11]
        assert list(some) == order[:7]


def test_systematic_counts_hardly_vary():
    sampler = make("systematic", num_samples=62)
    expected = 62 * np.asarray(WEIGHTS) / sum(WEIGHTS)
    counts = np.bincount(list(sampler), minlength=12)
    assert (np.abs(counts - expected) < 1).all()


def test_order_depends_on_seed_epoch_and_weights_only(kind):
    first = list(make(kind))
    assert list(make(kind)) == list(make(kind, weights=np.asarray(WEIGHTS, np.float32))) == first
    assert list(make(kind, weights=torch.tensor(WEIGHTS))) == first
    assert list(make(kind, seed=6)) != first
    later = make(kind)
    later.set_epoch(1)
    assert list(later) != first
    later.set_epoch(0)
    assert list(later) == first


def test_seek_at_every_position_equals_the_tail(kind):
    sampler = make(kind)
    order = list(sampler)
    for position in range(len(order) + 1):
        sampler.seek(position)
        assert list(sampler) == order[position:]
    sampler.seek(3)
    assert np.concatenate(list(sampler.arrays())).tolist() == order[3:]


def test_seek_over_block_edges_draws_one_block_only():
    weights = numpy_generator(3).random(50)
    sampler = WeightedSampler(weights, 4 * BLOCK + 100)
    order = np.concatenate(list(sampler.arrays()))
    assert order.dtype == np.int64
    for position in (1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 77, 4 * BLOCK, len(order) - 1):
        sampler.seek(position)
        assert np.array_equal(np.concatenate(list(sampler.arrays())), order[position:])
    huge = WeightedSampler(weights, 10**12)
    huge.seek(10**12 - 3)
    assert len(list(iter(huge))) == 3


def test_one_item_and_one_positive_item():
    assert list(WeightedSampler([2.0], 3)) == [0, 0, 0]
    for options in ({}, {"method": "systematic"}, {"replacement": False, "num_samples": 1}):
        assert set(WeightedSampler([0.0, 0.0, 1e-300, 0.0], **options)) == {2}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_from_1e_minus_30_to_1e30(dtype):
    weights = np.array([1e-30, 1e30, 0.0, 1.0, 1e30], dtype)
    assert list(WeightedSampler(weights, replacement=False))[2:] == [3, 0]
    counts = np.bincount(list(WeightedSampler(weights, 10_000)), minlength=5)
    assert counts[1] + counts[4] == 10_000
    assert abs(counts[1] - 5000) < 200


def test_twenty_million_items():
    weights = np.ones(20_000_000, np.float32)
    weights[:10_000_000] = 0
    weights[-1] = 1e7
    sampler = WeightedSampler(weights)
    sampler.seek(20_000_000 - 40_000)
    order = np.concatenate(list(sampler.arrays()))
    assert order.min() >= 10_000_000
    assert abs((order == 19_999_999).mean() - 0.5) < 0.01
    assert 14_900_000 < np.mean(order[order < 19_999_999]) < 15_100_000
    few = np.concatenate(list(WeightedSampler(weights, 1000, replacement=False).arrays()))
    assert 19_999_999 in few[:30]  # half of the weight: missed 30 times in a row once in 2^30 seeds
    assert len(set(few.tolist())) == 1000


def test_effective_sample_size():
    assert make("all").effective_sample_size == pytest.approx(sum(WEIGHTS) ** 2 / sum(w * w for w in WEIGHTS))
    assert WeightedSampler([0, 3.0]).effective_sample_size == 1
    assert WeightedSampler(np.array([1e200, 1e200, 0])).effective_sample_size == 2


def test_new_weights_wait_for_the_next_iteration(kind):
    sampler = make(kind)
    before, after = list(sampler), list(make(kind, weights=OTHER))
    for consumed in (0, 3):
        sampler = make(kind)
        running = iter(sampler)
        head = [next(running) for _ in range(consumed)]
        sampler.set_weights(OTHER)
        assert sampler.weights.tolist() == OTHER
        assert head + list(running) == before
        assert list(sampler) == after


def test_resume_inside_an_epoch_whose_weights_were_replaced(kind):
    """The rest of the epoch keeps its weights; the next epoch has the new ones."""
    sampler = make(kind)
    sampler.set_epoch(2)
    running = iter(sampler)
    head = [next(running) for _ in range(3)]
    sampler.set_weights(OTHER)
    state = json.loads(json.dumps(to_jsonable(sampler.state_dict())))
    tail = list(running)
    sampler.set_epoch(3)
    following = list(sampler)

    again = make(kind, seed=0)
    again.load_state_dict(from_jsonable(state))
    assert head + tail == list(again), "a trainer skips the batches itself"
    again.seek(3)
    assert tail == list(again), "the iteration may be begun more than once"
    again.set_epoch(3)
    assert list(again) == following == list(make_at(kind, OTHER, 3))


def make_at(kind, weights, epoch):
    sampler = make(kind, weights=weights)
    sampler.set_epoch(epoch)
    return sampler


def test_resume_between_epochs_uses_the_new_weights(kind):
    sampler = make(kind)
    list(sampler)
    sampler.set_weights(OTHER)
    again = make(kind)
    again.load_state_dict(sampler.state_dict())
    again.set_epoch(1)
    assert list(again) == list(make_at(kind, OTHER, 1))
    fresh = make(kind)
    fresh.set_weights(OTHER)
    again.load_state_dict(fresh.state_dict())
    assert list(again) == list(make(kind, weights=OTHER)), "nothing was begun before the state was taken"


def test_state_is_a_snapshot(kind):
    weights = np.asarray(WEIGHTS)
    sampler = make(kind, weights=weights)
    state = sampler.state_dict()
    sampler.set_weights(OTHER)
    list(sampler)
    assert state["weights"].tolist() == WEIGHTS
    assert state["next_weights"] is None


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"num_samples": 8}, ["num_samples=8", "12"]),
        ({"replacement": False, "num_samples": 12, "weights": [1, 2] * 6}, ["replacement=False", "True"]),
        ({"method": "systematic"}, ["method='systematic'", "'independent'"]),
        ({"weights": [1.0, 2.0, 3.0], "num_samples": 12}, ["number of weights=3", "12"]),
    ],
)
def test_state_of_another_sampler_is_refused(other, words):
    sampler = WeightedSampler(**{"weights": WEIGHTS, "seed": 1, **other})
    before = list(sampler)
    with pytest.raises(ValueError, match="build the sampler as it was") as caught:
        sampler.load_state_dict(make("independent").state_dict())
    assert all(word in str(caught.value) for word in words)
    assert list(sampler) == before


def test_copies_give_the_same_order_and_pickles_are_small(kind):
    sampler = make(kind)
    sampler.set_epoch(4)
    order = list(sampler)
    assert list(copy.deepcopy(sampler)) == order
    data = pickle.dumps(sampler)
    assert len(data) < 2000, "tables are not pickled"
    assert list(pickle.loads(data)) == order  # noqa: S301


@pytest.mark.parametrize("workers", [0, 2])
def test_plain_loader_gives_the_order(kind, workers):
    loader = DataLoader(torch.arange(12), 5, sampler=make(kind), num_workers=workers)
    assert torch.cat(list(loader)).tolist() == list(make(kind))


@pytest.mark.parametrize("workers", [0, 2])
def test_stateful_loader_resumes_after_every_batch(kind, workers):
    from torchdata.stateful_dataloader import StatefulDataLoader

    def loader():
        sampler = make(kind)
        sampler.set_epoch(1)
        return StatefulDataLoader(torch.arange(12), 3, sampler=sampler, num_workers=workers), sampler

    whole = [batch.tolist() for batch in loader()[0]]
    running, sampler = loader()
    for number, _ in enumerate(running):
        if number == 1:
            sampler.set_weights(OTHER)  # must not touch the epoch that is resumed
        state = running.state_dict()
        if number + 1 < len(whole) and (workers == 0 or number == 1):
            again, _ = loader()
            again.load_state_dict(state)
            assert [batch.tolist() for batch in again] == whole[number + 1 :]


def test_batches():
    sampler = make("more")
    assert [index for batch in BatchSampler(sampler, 8, False) for index in batch] == list(sampler)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, -2.0, 3.0], r"weights\[1\]=-2.0: must be finite and >= 0"),
        ([1.0, 2.0, math.nan, -1.0], r"weights\[2\]=nan"),
        (torch.tensor([math.inf, 1.0]), r"weights\[0\]=inf"),
        (np.array([1.0, -math.inf]), r"weights\[1\]=-inf"),
        ([0.0, 0.0, 0.0], "all 3 are zero"),
        ([], "not empty"),
        (np.ones((2, 3)), r"one-dimensional.*\(2, 3\)"),
        (3.0, "one-dimensional"),
        (np.array([1e308, 1e308]), "divide them by their maximum"),
    ],
)
def test_bad_weights_are_refused_when_given(weights, message):
    with pytest.raises(ValueError, match=message):
        WeightedSampler(weights)
    sampler = make("independent")
    with pytest.raises(ValueError, match=message):
        sampler.set_weights(weights)


def test_bad_arguments_are_refused_at_construction():
    with pytest.raises(ValueError, match=r"num_samples=11: must be <= 10, the number of non-zero weights"):
        WeightedSampler(WEIGHTS, 11, replacement=False)
    with pytest.raises(ValueError, match="method='systematic': must go with replacement=True"):
        WeightedSampler(WEIGHTS, replacement=False, method="systematic")
    with pytest.raises(ValueError, match="method='alias': must be one of"):
        WeightedSampler(WEIGHTS, method="alias")
    with pytest.raises(ValueError, match="num_samples=0"):
        WeightedSampler(WEIGHTS, 0)
    with pytest.raises(TypeError, match="replacement=1"):
        WeightedSampler(WEIGHTS, replacement=1)
    with pytest.raises(TypeError, match="numbers"):
        WeightedSampler(["a", "b"])
    sampler = make("all")
    with pytest.raises(ValueError, match="12 items as before, got 2"):
        sampler.set_weights([1.0, 2.0])
    with pytest.raises(ValueError, match="must be <= 2, the number of non-zero"):
        sampler.set_weights([1.0, 2.0] + 10 * [0.0])


def test_integers_bools_and_bfloat16_are_weights():
    assert list(WeightedSampler([1, 2, 3])) == list(WeightedSampler([1.0, 2.0, 3.0]))
    assert set(WeightedSampler(torch.tensor([True, False, True]), 60)) == {0, 2}
    assert list(WeightedSampler(torch.tensor([1, 2, 3], dtype=torch.bfloat16))) == list(WeightedSampler([1, 2, 3]))


def test_items_a_valid_float_apart_are_all_drawn():
    assert list(WeightedSampler([1e300, 1e-300], replacement=False)) == [0, 1]


def test_weights_set_after_a_resume_wait_for_the_next_epoch(kind):
    sampler = make_at(kind, WEIGHTS, 2)
    running = iter(sampler)
    _, state, tail = next(running), sampler.state_dict(), list(running)
    again = make(kind, seed=0)
    again.load_state_dict(state)
    again.set_weights(OTHER)
    for _ in range(2):  # loaders may begin an iteration more than once
        again.seek(1)
        assert list(again) == tail
    again.set_epoch(3)
    assert list(again) == list(make_at(kind, OTHER, 3))


def test_weights_set_after_the_resumed_iteration_began_serve_the_next_one(kind):
    sampler = make(kind)
    iter(sampler)
    again = make(kind, seed=0)
    again.load_state_dict(sampler.state_dict())
    assert list(again) == list(make(kind))
    again.set_weights(OTHER)
    assert list(again) == list(make(kind, weights=OTHER))


def test_equal_weights_warn_once_at_construction():
    with pytest.warns(NoEffectWarning, match="all 3 weights are equal"):
        sampler = WeightedSampler([2.0, 2.0, 2.0])
    sampler.set_weights([1.0, 1.0, 1.0])
    assert len(list(sampler)) == 3
