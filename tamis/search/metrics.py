"""What a search may be given as ``metric=``: a name of the Trainer's, a function, or a module of `evaluate`.

======================================== ========================================================================
``metric``                               score of a trained Trainer
======================================== ========================================================================
``"eval_accuracy"``, or ``"accuracy"``   that entry of ``trainer.evaluate()``
a function, `EvalPrediction` -> number   its value on ``trainer.predict(trainer.eval_dataset)``; higher is better
a module of `evaluate`, also combined    its only entry, on the same predictions: the most likely class if the labels
                                         are integers and there are logits of several; a single column as it is
(module, ``"f1"``)                       that entry of a module that has several
======================================== ========================================================================

What is an error by its name (`is_error`: a loss, ``"eval_wer"``, ``"mse"``, a module such as ``brier_score``) counts
downwards. ``greater_is_better=`` of the searches decides where the name does not say it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from tamis.core.errors import TamisError

__all__ = ["Metric", "check_metric", "direction_key", "is_error", "metric_name", "trainer_score"]

Metric: TypeAlias = "str | Callable[[Any], Any] | tuple[Any, str] | Any"

_ERROR = re.compile(
    r"(?!neg_|negative_)(?:.*_)?"
    r"(?:loss|nll|error|error_rate|wer|cer|ter|eer|mse|rmse|rmsle|mae|mape|smape|mase|perplexity|ppl|brier|bits_per_byte"
    r"|character|charcut_mt)(?:_score)?"
)


def is_error(name: str) -> bool:
    """Whether less of it is better: True for ``"eval_loss"``, ``"wer"``, ``"brier_score"``, ``"mean_squared_error"``.

    Args:
        name: an entry of ``evaluate()`` or of a module, or a module's name; ``"neg_mse"`` is none.
    """
    plain = name.lower().removeprefix("eval_")
    return plain.endswith("loss") or _ERROR.fullmatch(plain) is not None


def direction_key(metric: Any, greater_is_better: bool | None) -> dict[str, bool]:
    """What a journal must know of the direction: what was said, and what release 0.1 counted the other way.

    Args:
        metric: as `check_metric` lets pass.
        greater_is_better: as the searches.
    """
    if greater_is_better is not None:
        return {"greater_is_better": greater_is_better}
    turned = isinstance(metric, str) and is_error(metric) and not metric.endswith("loss")
    return {"greater_is_better": False} if turned else {}


def check_metric(metric: Metric, greater_is_better: bool | None = None) -> None:
    """Refuse what is no metric.

    Args:
        metric: what was given as one.
        greater_is_better: True, False, or None for what the name says.

    Raises:
        TypeError: with what it must be.
    """
    pair = isinstance(metric, tuple) and len(metric) == 2 and isinstance(metric[1], str) and _is_module(metric[0])
    if not (isinstance(metric, str) or pair or callable(metric) or _is_module(metric)):
        raise TypeError(
            f"metric={metric!r}: must be a name such as 'eval_accuracy', a function of an EvalPrediction, a module of "
            "evaluate (evaluate.load('accuracy')), or (module, 'f1')"
        )
    if greater_is_better is not None and not isinstance(greater_is_better, bool):
        raise TypeError(f"greater_is_better={greater_is_better!r}: must be True, False or None (what the name says)")


def metric_name(metric: Any) -> str:
    """The metric in a word, as the journal and the policy remember it.

    Args:
        metric: as `check_metric` lets pass.
    """
    if isinstance(metric, str):
        return metric
    if isinstance(metric, tuple):
        return f"{metric_name(metric[0])}:{metric[1]}"
    if _is_module(metric):
        parts = getattr(metric, "evaluation_modules", None)  # of evaluate.combine
        return "evaluate:" + ("+".join(str(part.name) for part in parts) if parts else str(metric.name))
    return str(getattr(metric, "__qualname__", type(metric).__qualname__))


def trainer_score(trainer: Any, metric: Any, greater_is_better: bool | None = None) -> float:
    """The score of a trained Trainer on its ``eval_dataset``; higher is better.

    Args:
        trainer: has ``evaluate`` and, unless ``metric`` is a name, ``predict`` and ``eval_dataset``.
        metric: see the module.
        greater_is_better: of the metric; None: unless its name is one of an error.

    Raises:
        TamisError: ``evaluate()`` has no such entry, the metric gives several values or none, predictions and labels
            do not fit together, or an entry of combined modules whose direction is not known.
    """
    if isinstance(metric, str):
        values = trainer.evaluate()
        name = metric if metric in values else f"eval_{metric}"
        if name not in values:
            raise TamisError(f"metric={metric!r}: must be one of {', '.join(sorted(values))}")
        value, less = float(values[name]), is_error(name)
    else:
        value, less = _of_predictions(trainer, metric, greater_is_better)
    less = less if greater_is_better is None else not greater_is_better
    return -value if less else value


def _of_predictions(trainer: Any, metric: Any, greater_is_better: bool | None) -> tuple[float, bool]:
    """Value of a function or module on the predictions, and whether its name is one of an error."""
    if getattr(trainer, "eval_dataset", None) is None:
        raise TamisError("the Trainer has no eval_dataset to predict: give it one, or name an entry of its evaluate()")
    output = trainer.predict(trainer.eval_dataset)
    if output.label_ids is None:
        raise TamisError("the Trainer's eval_dataset has no labels, so nothing can be compared with its predictions")
    entry = None
    if isinstance(metric, tuple):
        metric, entry = metric
    if _is_module(metric):
        predictions, labels = _comparable(output.predictions, output.label_ids, metric)
        got = metric.compute(predictions=predictions, references=labels)
        name, value = _entry(got, entry, metric_name(metric))
        return value, _module_error(metric, name, known=greater_is_better is not None)
    from transformers import EvalPrediction

    got = metric(EvalPrediction(predictions=output.predictions, label_ids=output.label_ids))
    name, value = _entry(got, None, metric_name(metric))
    return value, is_error(name)  # a bare number has no name: higher is better


def _is_module(metric: object) -> bool:
    return callable(getattr(metric, "compute", None)) and hasattr(metric, "add_batch")


def _module_error(metric: Any, entry: str, *, known: bool) -> bool:
    """Whether ``entry`` of a module is an error, by its own name or by the module's."""
    parts = getattr(metric, "evaluation_modules", None) or [metric]  # several: of evaluate.combine
    names = [str(part.name) for part in parts]
    errors = [is_error(name) for name in names]
    if is_error(entry) or all(errors):
        return True
    if any(errors) and not known and not any(entry == name or entry.startswith(f"{name}_") for name in names):
        raise TamisError(
            f"metric={metric_name(metric)}: some of these modules are errors, and {entry!r} does not say which it is "
            "of; pass greater_is_better=True or False"
        )
    return False


def _comparable(predictions: Any, labels: Any, metric: Any) -> tuple[np.ndarray, np.ndarray]:
    """Predictions as the labels are: the most likely class of logits, one column as it is."""
    first = predictions[0] if isinstance(predictions, tuple) else predictions
    if not isinstance(labels, np.ndarray) or not isinstance(first, np.ndarray):
        raise TamisError(
            f"metric={metric_name(metric)}: predictions are {type(first).__name__} and labels {type(labels).__name__}, "
            "one array of each is needed; give a function of the EvalPrediction"
        )
    shapes = f"predictions {list(first.shape)} and {labels.dtype} labels {list(labels.shape)}"
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if first.ndim == labels.ndim + 1 and first.shape[-1] == 1:
        first = first[..., 0]
    elif first.ndim == labels.ndim + 1 and labels.dtype.kind in "iub":
        first = first.argmax(-1)
    if first.ndim != labels.ndim or len(first) != len(labels):
        raise TamisError(
            f"metric={metric_name(metric)}: {shapes} cannot be compared; give a function of the EvalPrediction"
        )
    wanted = getattr((getattr(metric, "features", None) or {}).get("predictions"), "dtype", "")
    if str(wanted).startswith("int") and first.dtype.kind == "f":
        raise TamisError(
            f"metric={metric_name(metric)}: takes classes, but {shapes} are numbers of which no most likely class can "
            "be taken; give a function of the EvalPrediction"
        )
    return first, labels


def _entry(got: Any, wanted: str | None, metric: str) -> tuple[str, float]:
    """Name and value of what a metric gave."""
    if not isinstance(got, Mapping):
        if not hasattr(got, "__float__"):
            raise TamisError(f"metric={metric}: must give a number or a dict of one, got {type(got).__name__}")
        return "", float(got)
    if wanted is None and len(got) == 1:
        wanted = next(iter(got))
    if wanted is None or wanted not in got:
        raise TamisError(
            f"metric={metric}: gives {', '.join(sorted(got)) or 'nothing'}; say which is meant by "
            "metric=(module, 'NAME'), or give a function that returns one number"
        )
    return wanted, float(got[wanted])
