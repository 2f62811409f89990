"""What the searches do after their trials: report runs that chose nothing, and believe no gain within the noise."""

import json
import warnings

import numpy as np
import pytest

from tamis.core.errors import NoEffectWarning, TamisError
from tamis.core.rng import numpy_generator
from tamis.search import search_swift, search_trim
from tests.unit.test_swift_search import planted, share_of_right

FEATURES = planted()[0]


def of_luck(scale=1.0):
    """An objective that is the same for all laws, but for luck that follows from what was drawn."""

    def luck(sampler):
        return scale * float(numpy_generator(7, sum(i * k for k, i in enumerate(sampler))).normal())

    return luck


def test_the_luckiest_of_equal_laws_is_neither_reported_nor_believed():
    reported, found, trimmed = [], 0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)
        for seed in range(12):
            policy = search_swift(of_luck(), FEATURES, trials=12, optimizer="random", seed=seed, repeats=4)
            assert policy.search.config["search_score"] > 0.3
            reported.append(policy.search.score - policy.search.config["uniform_score"])
            found += reported[-1] > 0
            trimmed += len(set(policy.law.heights)) > 1
    assert found == trimmed <= 6  # all 12 before
    assert np.mean(reported) < 0.4


def test_the_scores_are_means_of_further_runs_under_the_same_seeds(tmp_path):
    policy = search_swift(share_of_right, FEATURES, trials=8, seed=3, repeats=3, out=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()[1:]]
    runs = [line for line in lines if line.get("run") == "repeat"]
    assert [line["point"] for line in runs] == [lines[0]["point"]] * 3 + [runs[3]["point"]] * 3
    assert policy.search.config["uniform_score"] == pytest.approx(np.mean([line["score"] for line in runs[:3]]))
    assert policy.search.score == pytest.approx(np.mean([line["score"] for line in runs[3:]]))
    assert policy.search.config["search_score"] == max(line["score"] for line in lines[:8])
    assert policy.search.score > policy.search.config["uniform_score"]


def test_a_gain_within_its_noise_is_none_and_is_said_with_its_scores():
    with pytest.warns(NoEffectWarning) as said:
        policy = search_swift(of_luck(), FEATURES, trials=12, optimizer="random", seed=2, repeats=6)
    text = str(said[0].message)
    assert "scored" in text
    assert "in the search, but run again 6 times beside uniform sampling it scored" in text
    assert "with a standard error of" in text
    assert "none of" not in text
    assert set(policy.law.heights) == {1.0}


def narrow(sampler):
    return -float(len(np.unique(list(sampler))))


def test_what_confirm_did_not_like_is_said_rightly():
    def wide(sampler):
        return float(len(np.unique(list(sampler))))

    with pytest.warns(NoEffectWarning, match=r"was best in the search, but by confirm= uniform sampling is \(uniform"):
        policy = search_swift(narrow, FEATURES, trials=12, seed=3, confirm=wide, repeats=2)
    assert policy.search.config["search_score"] < 0 < policy.search.config["uniform_score"]
    assert policy.search.score == policy.search.config["uniform_score"]


def test_confirmed_scores_are_of_runs_that_chose_nothing(tmp_path):
    policy = search_swift(share_of_right, FEATURES, trials=6, seed=3, confirm=share_of_right, repeats=2, out=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()[1:]]
    chose = {line["score"] for line in lines if line.get("run") == "confirm"}
    told = [line["score"] for line in lines if line.get("run") == "report"]
    assert len(told) == 4
    assert not chose & set(told)
    assert policy.search.score == pytest.approx(np.mean(told[2:]))


def test_another_confirm_in_the_same_folder_is_run(tmp_path):
    calls = []

    def first(sampler):
        calls.append("first")
        return share_of_right(sampler)

    def second(sampler):
        calls.append("second")
        return 5 + share_of_right(sampler)

    options = {"trials": 6, "seed": 3, "repeats": 2, "out": tmp_path}
    before = search_swift(share_of_right, FEATURES, confirm=first, **options)
    after = search_swift(share_of_right, FEATURES, confirm=second, **options)
    assert calls.count("second") == calls.count("first") > 0
    assert after.search.score == pytest.approx(before.search.score + 5)
    count = len(calls)
    assert search_swift(share_of_right, FEATURES, confirm=second, **options) == after
    assert len(calls) == count


def test_a_law_that_fails_when_it_is_run_again_is_out():
    count = [0]

    def fails_later(sampler):
        count[0] += 1
        order = np.array(list(sampler))
        trims = len(np.unique(order)) < 240  # uniform sampling sees 253 of 400
        return float("nan") if trims and count[0] > 8 and count[0] % 2 else float(1 + trims)

    with pytest.warns(NoEffectWarning, match="a run of it failed when it was run again"):
        policy = search_swift(fails_later, FEATURES, trials=8, seed=3, repeats=2)
    assert policy.search.score == 1
    with pytest.raises(TamisError, match="confirm: of each law a run gave no finite score"):
        search_swift(share_of_right, FEATURES, trials=4, confirm=lambda s: list(s) and float("nan"))


def test_a_share_of_which_a_run_failed_is_out():
    count = [0]

    def half_fails(sampler):
        count[0] += 1
        narrow = len(np.unique(list(sampler))) < 200  # of share 0.5
        return (float("nan") if count[0] > 2 else 9.0) if narrow else 1.0

    with pytest.warns(NoEffectWarning, match="keeping everything scored best"):
        policy = search_trim(half_fails, FEATURES, shares=(1.0, 0.5), repeats=2)
    assert policy.search.config["score.0.5.0"] is None
    assert policy.search.score == 1
    with pytest.raises(TamisError, match="of each share a run gave no finite score"):
        search_trim(lambda s: list(s) and float("nan"), FEATURES, shares=(1.0, 0.5), repeats=1)


@pytest.mark.parametrize("shares", [(1.0, 0.6), (0.8, 0.6)])
def test_the_trim_search_confirms_too(tmp_path, shares):
    options = {"shares": shares, "repeats": 3, "seed": 1, "out": tmp_path}
    policy = search_trim(share_of_right, FEATURES, **options, confirm=lambda s: 3 + share_of_right(s))
    assert policy.search.config["share"] == 0.6
    assert policy.search.score > policy.search.config["uniform_score"] > 3 > policy.search.config["search_score"]
    assert policy.search.budget["trials"] == 2 * 3 + 2 * 3
    with pytest.warns(
        NoEffectWarning, match=r"search_trim: share 0.6, balance 0 scored 1\..* in the search, but run ag"
    ):
        kept = search_trim(share_of_right, FEATURES, **options, confirm=narrow_is_bad)
    assert kept.search.config["share"] == 1
    assert set(kept.law.heights) == {1.0}


def narrow_is_bad(sampler):
    return -narrow(sampler)
