"""Which way a metric counts, and what of the predictions it is given."""

from types import SimpleNamespace

import numpy as np
import pytest

from tamis.core.errors import TamisError
from tamis.search import search_swift, search_trim
from tamis.search.metrics import check_metric, direction_key, is_error, trainer_score
from tests.unit.test_swift_search import planted


class Module:
    """As a module of `evaluate` looks to the search; `tests/integration` has real ones."""

    def __init__(self, name, compute, dtype="float32"):
        self.name, self._compute = name, compute
        self.features = {"predictions": SimpleNamespace(dtype=dtype)}

    def add_batch(self, **batch):
        raise AssertionError

    def compute(self, predictions, references):
        return self._compute(np.asarray(predictions), np.asarray(references))


class Trainer:
    """Gives the predictions that it is made with."""

    def __init__(self, predictions=((0.0,), (1.0,)), labels=(0.0, 1.0), **values):
        self.output = SimpleNamespace(predictions=np.asarray(predictions), label_ids=np.asarray(labels))
        self.eval_dataset, self.values = [1], {f"eval_{name}": value for name, value in values.items()}

    def predict(self, data):
        return self.output

    def evaluate(self):
        return self.values

    def train(self):
        pass


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("eval_loss", True), ("wer", True), ("eval_mse", True), ("brier_score", True), ("mean_squared_error", True),
        ("eval_dev_wer", True), ("perplexity", True), ("word_error_rate", True), ("accuracy", False), ("f1", False),
        ("neg_mse", False), ("eval_neg_mean_squared_error", False), ("matthews_correlation", False), ("meteor", False),
        ("poster", False), ("answer", False), ("score", False), ("r_squared", False),
    ],
)  # fmt: skip
def test_errors_are_known_by_their_names(name, error):
    assert is_error(name) is error


def test_a_name_a_module_and_a_bare_number_count_the_same_way():
    trainer = Trainer(wer=0.25, mse=0.5, accuracy=0.75, loss=0.125)
    scores = {name: trainer_score(trainer, name) for name in ("wer", "eval_mse", "accuracy", "eval_loss")}
    assert scores == {"wer": -0.25, "eval_mse": -0.5, "accuracy": 0.75, "eval_loss": -0.125}
    assert trainer_score(trainer, Module("wer", lambda p, r: 0.25)) == -0.25  # a bare float, as evaluate's wer
    assert trainer_score(trainer, (Module("ter", lambda p, r: {"score": 40.0, "num_edits": 4}), "score")) == -40
    assert trainer_score(trainer, Module("brier_score", lambda p, r: {"brier_score": 0.1})) == -0.1
    assert trainer_score(trainer, Module("f1", lambda p, r: {"f1": 0.1})) == 0.1
    assert trainer_score(trainer, lambda prediction: 0.5) == 0.5
    assert trainer_score(trainer, "wer", greater_is_better=True) == 0.25
    assert trainer_score(trainer, "accuracy", greater_is_better=False) == -0.75
    assert trainer_score(trainer, lambda prediction: 0.5, greater_is_better=False) == -0.5


def test_combined_modules_say_which_they_mean():
    combined = Module("combined", lambda p, r: {"score": 3.0, "accuracy": 0.5})
    combined.evaluation_modules = [Module("ter", None), Module("accuracy", None)]
    assert trainer_score(Trainer(), (combined, "accuracy")) == 0.5
    with pytest.raises(TamisError, match="'score' does not say which it is of; pass greater_is_better="):
        trainer_score(Trainer(), (combined, "score"))
    assert trainer_score(Trainer(), (combined, "score"), greater_is_better=False) == -3


def test_a_regression_is_scored_on_its_numbers():
    mse = Module("mse", lambda p, r: {"mse": float(((p - r) ** 2).mean())})
    labels = np.arange(6.0)
    good, bad = (Trainer((labels + d)[:, None], labels) for d in (0.1, 2.0))
    assert trainer_score(good, mse) == pytest.approx(-0.01)  # both -9.17 by the argmax of one column
    assert trainer_score(bad, mse) == pytest.approx(-4)
    assert trainer_score(Trainer((labels + 2)[:, None], labels[:, None]), mse) == pytest.approx(-4)
    accuracy = Module("accuracy", lambda p, r: {"accuracy": float((p == r).mean())}, "int32")
    logits = np.eye(3)[[0, 2, 1, 1]]
    assert trainer_score(Trainer(logits, [0, 2, 1, 0]), accuracy) == 0.75
    assert trainer_score(Trainer(logits, [[0], [2], [1], [0]]), accuracy) == 0.75
    assert trainer_score(Trainer([0, 2, 1, 1], [0, 2, 1, 0]), accuracy) == 0.75


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        (Trainer(np.zeros((4, 2)), np.zeros(4)), r"predictions \[4, 2\] and float64 labels \[4\] cannot be compared"),
        (Trainer(np.zeros((4, 1)), np.zeros(4, int)), r"takes classes, but predictions \[4, 1\]"),
        (Trainer(np.zeros((4, 2, 2)), np.zeros(4, int)), "cannot be compared; give a function of the EvalPrediction"),
    ],
)
def test_what_cannot_be_compared_is_named(trainer, message):
    with pytest.raises(TamisError, match=message):
        trainer_score(trainer, Module("accuracy", lambda p, r: {"accuracy": 1.0}, "int32"))
    trainer.output.label_ids = (np.zeros(4), np.zeros(4))
    with pytest.raises(TamisError, match="labels tuple, one array of each is needed"):
        trainer_score(trainer, Module("accuracy", lambda p, r: {"accuracy": 1.0}, "int32"))


@pytest.mark.filterwarnings("ignore::tamis.core.errors.NoEffectWarning")
@pytest.mark.parametrize("search", [search_swift, search_trim])
def test_the_searches_take_the_direction(search, tmp_path):
    features = planted()[0]

    def objective(sampler):
        list(sampler)
        return Trainer(wer=0.25)

    options = {"trials": 2, "repeats": 0} if search is search_swift else {"shares": (0.5,), "repeats": 1}
    assert search(objective, features, metric="wer", out=tmp_path, **options).search.score == -0.25
    upwards = search(objective, features, metric="wer", greater_is_better=True, **options)
    assert upwards.search.score == 0.25
    with pytest.raises(TamisError, match="greater_is_better"):  # another direction, another search
        search(objective, features, metric="wer", out=tmp_path, greater_is_better=True, **options)
    with pytest.raises(TypeError, match="greater_is_better='no': must be True, False or None"):
        search(objective, features, metric="wer", greater_is_better="no", **options)
    with pytest.raises(
        TamisError, match="greater_is_better=False: is of a Trainer's metric, but the objective returned"
    ):
        search(lambda s: float(len(list(s))), features, greater_is_better=False, **options)


def test_journals_of_what_always_counted_so_stay_the_same():
    assert direction_key("eval_loss", None) == direction_key("eval_accuracy", None) == {}
    assert direction_key("eval_wer", None) == {"greater_is_better": False}
    check_metric("wer", False)
