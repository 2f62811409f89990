"""A search of one's own, from public names only, as CONTRIBUTING tells it: settings, trials, journal, policy."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest

import tamis
from tamis import Policy, TamisError, fingerprint, register_policy
from tamis.core import check_int, check_seed, numpy_generator
from tamis.search import SearchRun, adjustable
from tamis.testing import run_distributed


@register_policy("toy_threshold")
@dataclass(frozen=True, kw_only=True)
class ThresholdPolicy(Policy):
    """Samples with a score below ``threshold`` are left out."""

    threshold: float


@dataclass(frozen=True, kw_only=True)
class ThresholdConfig:
    """Settings of `search_threshold`.

    Attributes:
        trials: thresholds tried, >= 1; a journal goes on under another number.
        near: later thresholds lie within this of the best so far.
        seed: of the thresholds.
    """

    trials: int = adjustable(12)
    near: float = 0.1
    seed: int = 0

    def __post_init__(self):
        check_int("trials", self.trials, low=1)
        check_seed(self.seed)


def search_threshold(objective, scores, *, trials=12, near=0.1, seed=0, out=None):
    """Find the threshold of ``scores`` for which ``objective(kept)`` is highest."""
    config = ThresholdConfig(trials=trials, near=near, seed=seed)

    def evaluate(number, point):
        kept = scores >= np.quantile(scores, point[0])
        return {"score": float(objective(kept)), "kept": int(kept.sum())}

    def propose(past, count):  # a pure function of its arguments: a search that was killed ends as if it was not
        draws = numpy_generator(seed, len(past)).random((count, 1))
        if not past:
            return draws
        best = max(past, key=lambda record: record["score"])["point"]
        return np.clip(np.array(best) + near * (2 * draws - 1), 0, 1)

    with SearchRun("threshold", config, out, data={"scores": fingerprint(scores)}) as run:
        records = run.trials(evaluate, propose, trials=trials, initial=4, parallel=2, desc="thresholds")
        best = max(records, key=lambda record: record["score"])
        info = run.info(best["score"], {"trials": trials, "sample_forwards": sum(r["kept"] for r in records)})
        return run.finish(ThresholdPolicy(threshold=float(np.quantile(scores, best["point"][0])), search=info))


SCORES = numpy_generator(5).random(200)
WRONG = SCORES < 0.3


def gain(kept):
    """Right samples are worth 1, wrong ones cost 1."""
    return (kept & ~WRONG).mean() - (kept & WRONG).mean()


def killed_after(trials):
    """An objective that ends its process without a word in trial number ``trials``."""
    seen = []

    def dying(kept):
        seen.append(1)
        if len(seen) > trials:
            os.kill(os.getpid(), signal.SIGKILL)
        return gain(kept)

    return dying


def test_the_planted_threshold_is_found_and_remembered(tmp_path):
    policy = search_threshold(gain, SCORES, trials=40, out=tmp_path)
    assert policy.threshold == pytest.approx(0.3, abs=0.02)
    assert tamis.load_policy(tmp_path) == policy
    assert policy.search.config == {"trials": 40, "near": 0.1, "seed": 0}
    assert policy.search.budget["trials"] == 40


def test_a_killed_search_goes_on_and_other_settings_are_refused(tmp_path):
    code = "import sys; from tests.unit import test_toy_search as t; "
    code += "t.search_threshold(t.killed_after(7), t.SCORES, out=sys.argv[1])"
    child = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": "."})
    assert child.returncode == -signal.SIGKILL
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 1 + 7
    calls = []
    again = search_threshold(lambda kept: calls.append(1) or gain(kept), SCORES, out=tmp_path)
    assert len(calls) == 12 - 7
    whole = search_threshold(gain, SCORES)
    assert again == whole
    assert again.search == whole.search
    assert search_threshold(gain, SCORES, trials=20, out=tmp_path) == search_threshold(gain, SCORES, trials=20)
    with pytest.raises(TamisError, match=r"another search: near differ \(near=0.1 there, 0.2 here\)"):
        search_threshold(gain, SCORES, near=0.2, out=tmp_path)
    with pytest.raises(TamisError, match="another search: scores differ"):
        search_threshold(gain, SCORES[::-1], out=tmp_path)


def test_two_searches_in_one_folder_at_once_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tamis.search.run._PATIENCE", 0.2)

    def nested(kept):
        with pytest.raises(TamisError, match="another process searches there now"):
            search_threshold(gain, SCORES, out=tmp_path)
        return gain(kept)

    search_threshold(nested, SCORES, trials=1, out=tmp_path)
    search_threshold(gain, SCORES, trials=2, out=tmp_path)


def on_a_rank(out):
    found = search_threshold(gain, SCORES, out=out)
    return replace(tamis.load_policy(out), search=None) == replace(found, search=None), found.threshold


def test_every_rank_can_load_it_at_once(tmp_path):
    alone = search_threshold(gain, SCORES)
    found = run_distributed("tests.unit.test_toy_search:on_a_rank", out=str(tmp_path / "two"))
    assert found == [[True, alone.threshold]] * 2
