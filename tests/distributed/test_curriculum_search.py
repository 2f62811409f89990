"""On two processes the search gives what it gives on one: features, policy and model."""

import torch

from tamis.samplers import curriculum_features
from tamis.testing.distributed import run_distributed
from tests.unit.curriculum_models import tiny_classifier
from tests.unit.test_curriculum_search import search


def summary(out):
    """Digests that both ranks return."""
    model, items = tiny_classifier()
    data = {"t": [f"a b{i % 7} c{i % 3}" for i in range(60)]}
    features = curriculum_features(
        data,
        text=["t"],
        tags={"pos": ("t", lambda tokens: [token[0] for token in tokens])},
        functions={"size": lambda rows: [len(text) for text in rows["t"]]},
        model=model,
        items=items,
        cache=f"{out}-cache",
    )
    found = [features.digest()]
    for reward in ("first_order", "exact"):
        policy, model = search(f"{out}-{reward}", reward=reward)
        weights = torch.cat([p.detach().flatten() for p in model.parameters()]).double()
        found += [policy.digest(), policy.search.score, float(weights.square().sum())]
    return found


def test_two_processes_equal_one(tmp_path):
    alone = summary(str(tmp_path / "one"))
    first, second = run_distributed("tests.distributed.test_curriculum_search:summary", out=str(tmp_path / "two"))
    assert first == second == alone
