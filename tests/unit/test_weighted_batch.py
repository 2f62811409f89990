"""`BatchSelector`: which positions of a candidate batch are kept. Seeds are fixed."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tamis.samplers import BatchSelector
from tests.reference import weighted as reference


def test_top_keeps_the_largest_best_first_ties_to_the_lower_position():
    scores = torch.tensor([0.1, 3.0, -1.0, 3.0, 2.0, 2.0], requires_grad=True)
    kept = BatchSelector(0.5)(scores)
    assert kept.dtype == torch.int64
    assert kept.tolist() == [1, 3, 4]
    assert BatchSelector(2)(scores).tolist() == [1, 3]
    assert BatchSelector(99)(scores).tolist() == [1, 3, 4, 5, 0, 2], "a last batch may be small"
    assert len(BatchSelector(0.01)(scores)) == 1


def test_sample_draws_without_replacement_in_proportion():
    weights = [1.0, 0.0, 4.0, 2.0, 3.0]
    selector = BatchSelector(2, mode="sample", seed=1)
    trials = 4000
    included = np.zeros(5)
    for _ in range(trials):
        kept = selector(torch.tensor(weights))
        assert len(set(kept.tolist())) == 2
        included[kept] += 1
    exact = reference.inclusion_probabilities(weights, 2)
    assert np.allclose(included / trials, exact, atol=4 * 0.5 / math.sqrt(trials))


def test_choice_is_a_function_of_seed_epoch_and_step_and_resumes():
    scores = torch.linspace(1, 2, 50)

    def run(selector, steps):
        return [selector(scores).tolist() for _ in range(steps)]

    first = BatchSelector(0.2, mode="sample", seed=3)
    first.set_epoch(1)
    kept = run(first, 6)
    assert len({tuple(row) for row in kept}) == 6, "steps differ"
    again = BatchSelector(0.2, mode="sample", seed=3)
    again.set_epoch(1)
    head = run(again, 2)
    state = json.loads(json.dumps(again.state_dict()))
    resumed = BatchSelector(0.2, mode="sample")
    resumed.load_state_dict(state)
    resumed.set_epoch(1)  # trainers call it again after a resume
    assert head + run(resumed, 4) == kept
    other = BatchSelector(0.2, mode="sample", seed=4)
    other.set_epoch(1)
    assert run(other, 6) != kept
    first.set_epoch(2)
    assert run(first, 6) != kept


def test_too_few_positive_scores_fill_up_with_a_warning():
    scores = torch.tensor([0.0, 5.0, 0.0, 0.0, 1.0, 0.0])
    selector = BatchSelector(4, mode="sample", seed=0)
    filled = set()
    for _ in range(40):
        with pytest.warns(UserWarning, match="only 2 of 6 scores are above zero and 4"):
            kept = selector(scores).tolist()
        assert set(kept[:2]) == {1, 4}
        assert len(set(kept)) == 4
        filled |= set(kept[2:])
    assert filled == {0, 2, 3, 5}
    with pytest.warns(UserWarning, match="only 0 of 3"):
        assert len(set(BatchSelector(2, mode="sample")(torch.zeros(3)).tolist())) == 2


@pytest.mark.parametrize(
    ("mode", "scores", "message"),
    [
        ("top", torch.tensor([1.0, math.nan]), r"scores\[1\]=nan: must be finite$"),
        ("top", torch.ones(2, 2), "one-dimensional"),
        ("top", torch.ones(0), "not empty"),
        ("sample", torch.tensor([1.0, 2.0, -0.5]), r"scores\[2\]=-0.5: must be finite and >= 0"),
    ],
)
def test_bad_scores(mode, scores, message):
    with pytest.raises(ValueError, match=message):
        BatchSelector(1, mode=mode)(scores)


@pytest.mark.parametrize("keep", [0, -1, 0.0, 1.0, 1.5, math.nan])
def test_bad_keep(keep):
    with pytest.raises(ValueError, match="keep="):
        BatchSelector(keep)


def test_other_bad_arguments():
    with pytest.raises(TypeError, match="keep='half'"):
        BatchSelector("half")
    with pytest.raises(ValueError, match="mode='best': must be one of"):
        BatchSelector(0.5, mode="best")
    with pytest.raises(ValueError, match=r"keep=0.5, but the saved selector had 0.25"):
        BatchSelector(0.5).load_state_dict(BatchSelector(0.25).state_dict())


def test_card_runs_and_its_trainer_trains_on_what_is_kept(tmp_path):
    from transformers import TrainingArguments
    from transformers.modeling_outputs import SequenceClassifierOutput

    card = (Path(__file__).parents[2] / "docs" / "methods" / "weighted.md").read_text()
    names = {"__name__": "card"}
    exec(compile("\n".join(re.findall(r"```python\n(.*?)```", card, re.S)), "weighted.md", "exec"), names)  # noqa: S102

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 2)
            self.sizes = []

        def forward(self, x, labels):
            logits = self.linear(x)
            self.sizes.append((self.training and torch.is_grad_enabled(), len(x)))
            return SequenceClassifierOutput(loss=torch.nn.functional.cross_entropy(logits, labels), logits=logits)

    data = [{"x": torch.full((3,), float(item)), "labels": torch.tensor(item % 2)} for item in range(16)]
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=8, per_device_eval_batch_size=8, num_train_epochs=1,
        use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    model = Model()
    trainer = names["SelectiveTrainer"](model, arguments, train_dataset=data, eval_dataset=data)
    trainer.train()
    assert model.sizes == [(False, 8), (True, 4)] * 2
    model.sizes.clear()
    trainer.evaluate()
    assert model.sizes == [(False, 8)] * 2
