"""On two processes the search gives what it gives on one: features, policy and model."""

import warnings

import torch

from tamis.core.distributed import rank
from tamis.core.errors import NoEffectWarning
from tamis.samplers import curriculum_features
from tamis.search.curriculum.states import States
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
    for reward in ("first_order", "tuned", "exact"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoEffectWarning)  # copies of a toy
            policy, model = search(f"{out}-{reward}", reward=reward)
        weights = torch.cat([p.detach().flatten() for p in model.parameters()]).double()
        found += [policy.digest(), policy.search.score, float(weights.square().sum())]
    return found


def test_two_processes_equal_one(tmp_path):
    alone = summary(str(tmp_path / "one"))
    first, second = run_distributed("tests.distributed.test_curriculum_search:summary", out=str(tmp_path / "two"))
    assert first == second == alone


def drifted(folder):
    """Copies that each process trained a little differently: the weights after they were kept, and come back to."""
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with torch.no_grad():
        model.weight.fill_(1 + rank())
    optimizer.state[model.weight]["momentum_buffer"] = torch.full((1, 2), 3.0 + rank())
    states = States(model, optimizer, None, folder)
    states.save("a")
    buffer = optimizer.state[model.weight]["momentum_buffer"]
    return [*model.weight.flatten().tolist(), *buffer.flatten().tolist()]


def test_all_processes_go_on_from_the_first_one_s_state():
    first, second = run_distributed("tests.distributed.test_curriculum_search:drifted", folder=None)
    assert first == second == [1.0, 1.0, 3.0, 3.0]
