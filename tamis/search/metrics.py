"""What a search may be given as ``metric=``: a name of the Trainer's, a function, or a module of `evaluate`.

======================================== ========================================================================
``metric``                               score of a trained Trainer
======================================== ========================================================================
``"eval_accuracy"``, or ``"accuracy"``   that entry of ``trainer.evaluate()``; counts downwards if it ends in "loss"
a function, `EvalPrediction` -> number   its value on ``trainer.predict(trainer.eval_dataset)``; higher is better
a module of `evaluate`, also combined    its only entry, on the same predictions (the most likely class, if they are
                                         logits); counts downwards if it is an error, such as ``"wer"``
(module, ``"f1"``)                       that entry of a module that has several
======================================== ========================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from tamis.core.errors import TamisError

__all__ = ["Metric", "check_metric", "metric_name", "trainer_score"]

Metric: TypeAlias = "str | Callable[[Any], Any] | tuple[Any, str] | Any"

#: Entries of `evaluate`'s modules of which less is better.
ERRORS = ("loss", "wer", "cer", "ter", "mse", "rmse", "mae", "mape", "smape", "perplexity", "mean_perplexity")


def check_metric(metric: Metric) -> None:
    """Refuse what is no metric.

    Raises:
        TypeError: with what it must be.
    """
    pair = isinstance(metric, tuple) and len(metric) == 2 and isinstance(metric[1], str) and _is_module(metric[0])
    if not (isinstance(metric, str) or pair or callable(metric) or _is_module(metric)):
        raise TypeError(
            f"metric={metric!r}: must be a name such as 'eval_accuracy', a function of an EvalPrediction, a module of "
            "evaluate (evaluate.load('accuracy')), or (module, 'f1')"
        )


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


def trainer_score(trainer: Any, metric: Any) -> float:
    """The score of a trained Trainer on its ``eval_dataset``; higher is better.

    Args:
        trainer: has ``evaluate`` and, unless ``metric`` is a name, ``predict`` and ``eval_dataset``.
        metric: see the module.

    Raises:
        TamisError: ``evaluate()`` has no such entry, the metric gives several values or none.
    """
    if isinstance(metric, str):
        values = trainer.evaluate()
        name = metric if metric in values else f"eval_{metric}"
        if name not in values:
            raise TamisError(f"metric={metric!r}: must be one of {', '.join(sorted(values))}")
        return -float(values[name]) if name.endswith("loss") else float(values[name])
    if getattr(trainer, "eval_dataset", None) is None:
        raise TamisError("the Trainer has no eval_dataset to predict: give it one, or name an entry of its evaluate()")
    output = trainer.predict(trainer.eval_dataset)
    if output.label_ids is None:
        raise TamisError("the Trainer's eval_dataset has no labels, so nothing can be compared with its predictions")
    entry = None
    if isinstance(metric, tuple):
        metric, entry = metric
    if _is_module(metric):
        got = metric.compute(predictions=_classes(output.predictions, output.label_ids), references=output.label_ids)
        name, value = _entry(got, entry, metric_name(metric))
        return -value if name in ERRORS else value
    from transformers import EvalPrediction

    got = metric(EvalPrediction(predictions=output.predictions, label_ids=output.label_ids))
    return _entry(got, None, metric_name(metric))[1]


def _is_module(metric: object) -> bool:
    return callable(getattr(metric, "compute", None)) and hasattr(metric, "add_batch")


def _classes(predictions: Any, labels: Any) -> Any:
    """The most likely class where the predictions have one dimension more than the labels."""
    first = predictions[0] if isinstance(predictions, tuple) else predictions
    return first.argmax(-1) if np.ndim(first) == np.ndim(labels) + 1 else first


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
