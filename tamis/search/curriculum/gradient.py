"""What one SGD step on one sample does to the validation loss: exactly, and to first order for whole batches.

The reward of M. Zhao et al., AAAI 2020 (thesis, section 3.4.3): a model is updated with the one chosen sample by SGD
and its perplexity on the validation data is compared, before and after.

| symbol | here | meaning |
|---|---|---|
| r, exact | `exact_rewards` | L(theta) - L(theta - lr g_i), float64, > 0: the step helps |
| r, first order | `first_order_rewards` | lr <g, g_i>, the same up to terms of order lr^2 |
| g | `validation_gradient` | gradient of the mean validation loss per token, float64 sums |
| g_i | - | gradient of sample i's mean loss per token |
| - | `path_gradient` | mean of the g along a short descent on the validation data |

With one g, a forward-mode derivative along it gives <g, g_i> for a whole batch at about the price of two forward
passes, whatever the size of the validation data.

**Deviation**: L is the mean log-loss per token and not the perplexity exp(L): both rewards order samples alike (the
step changes L by 1e-6 or so, and exp is linear there), and L keeps the digits. `path_gradient` may stand for g: after
the training, g lies mostly in steep directions that a few steps use up, and says little of what helps for longer.

**Unstated** in the paper: dropout and batch statistics during the probe. Both are off (eval mode).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tamis.core.errors import TamisError
from tamis.core.models import evaluating
from tamis.core.types import Batch
from tamis.features.losses import SampleLoss

__all__ = [
    "exact_rewards", "first_order_rewards", "keeps_small_steps", "mean_loss", "path_gradient", "rewards_by",
    "validation_gradient",
]  # fmt: skip


def mean_loss(model: nn.Module, batches: Iterable[Any], loss: SampleLoss) -> float:
    """The loss per target token over ``batches`` in eval mode, summed in float64.

    Args:
        model: in any mode.
        batches: on the model's device.
        loss: of `sample_loss_of`.

    Raises:
        TamisError: no target token.
    """
    total, count = 0.0, 0
    with evaluating(model), torch.no_grad():
        for batch in batches:
            values, tokens = loss(model, batch)
            total += float(values.double().sum())
            count += int(tokens.sum())
    return total / _some(count)


def validation_gradient(model: nn.Module, batches: Iterable[Any], loss: SampleLoss) -> dict[str, Tensor]:
    """Gradient of `mean_loss`: parameter name -> float64 tensor; ``.grad`` fields are not touched.

    Args:
        model: as `mean_loss`.
        batches: as `mean_loss`.
        loss: as `mean_loss`.

    Raises:
        TamisError: no target token, or no parameter that requires a gradient.
    """
    named = _trainable(model)
    sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in named.items()}
    count = 0
    with evaluating(model):
        for batch in batches:
            values, tokens = loss(model, batch)
            gradients = torch.autograd.grad(values.sum(), list(named.values()), allow_unused=True)
            for name, gradient in zip(named, gradients, strict=True):
                if gradient is not None:
                    sums[name] += gradient.double()
            count += int(tokens.sum())
    return {name: total / _some(count) for name, total in sums.items()}


def path_gradient(
    model: nn.Module, batches: Iterable[Any], loss: SampleLoss, *, steps: int, lr: float
) -> dict[str, Tensor]:
    """(theta - theta') / (steps lr), where plain gradient descent on the batches in turn leads from theta to theta'.

    Like `validation_gradient`, which one step on a single batch of all would give: name -> float64 tensor. The model is
    bit-identical afterwards.

    Args:
        model: in any mode; used in eval mode.
        batches: of the validation data, one a step, begun anew when used up.
        loss: of `sample_loss_of`.
        steps: of gradient descent, >= 1.
        lr: of each.

    Raises:
        TamisError: the descent does not lower the loss: ``lr`` is too large; parameters below float32.
    """
    named, given = _trainable(model), list(batches)
    _can_step(model, "lookahead > 1")
    parameters, kept = list(named.values()), [p.detach().clone() for p in named.values()]
    before = mean_loss(model, given, loss)
    try:
        for step in range(steps):
            with evaluating(model):
                total, count = loss(model, given[step % len(given)])
                gradients = torch.autograd.grad(total.sum() / count.sum().clamp(min=1), parameters, allow_unused=True)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    if gradient is not None:
                        parameter.sub_(gradient, alpha=lr)
        after = mean_loss(model, given, loss)
        moved = {
            n: (k.double() - p.detach().double()) / (steps * lr) for (n, p), k in zip(named.items(), kept, strict=True)
        }
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
    if not after < before:
        raise TamisError(
            f"lookahead_lr={lr}: {steps} steps of gradient descent brought the validation loss from {before:.4g} to "
            f"{after:.4g}; lower it"
        )
    return moved


def first_order_rewards(
    model: nn.Module, batch: Batch, gradient: dict[str, Tensor], lr: float, loss: SampleLoss
) -> np.ndarray:
    """Lr <g, g_i> of every sample of ``batch``: float64 [B], by one forward-mode derivative along g.

    Args:
        model: in any mode; used in eval mode, with attention's math path.
        batch: on the model's device.
        gradient: of `validation_gradient`.
        lr: of the SGD step.
        loss: of `sample_loss_of`.

    Raises:
        TamisError: an operation of the model has no forward-mode derivative.
    """
    named = _trainable(model)
    primals = {name: p.detach() for name, p in named.items()}
    # scaled to unit length: the derivative is linear in it, and tiny tangents would lose digits
    size = float(torch.stack([g.square().sum() for g in gradient.values()]).sum().sqrt()) or 1.0
    tangents = {name: (gradient[name] / size).to(p.dtype) for name, p in primals.items()}

    whole = _Loss(model, loss)

    def per_sample(values: dict[str, Tensor]) -> Tensor:
        swapped = {f"model.{name}": value for name, value in values.items()}
        total, count = torch.func.functional_call(whole, swapped, (batch,))
        values_of: Tensor = total / count.clamp(min=1)
        return values_of

    with evaluating(model), _math_attention(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.script", FutureWarning)  # torch's own, at the first jvp
        try:
            along: Tensor = torch.func.jvp(per_sample, (primals,), (tangents,))[1]
        except torch.OutOfMemoryError:  # a RuntimeError too
            raise
        except (NotImplementedError, RuntimeError) as error:
            raise TamisError(
                f"reward='first_order': {type(model).__name__} has an operation without forward-mode derivative "
                f'({error}); load the model with attn_implementation="eager", or pass reward="exact"'
            ) from error
    rewards: np.ndarray = lr * size * along.detach().double().cpu().numpy()
    return rewards


def exact_rewards(
    model: nn.Module,
    singles: Iterable[Any],
    validation: Callable[[], Iterable[Any]],
    lr: float,
    loss: SampleLoss,
    *,
    before: float | None = None,
) -> np.ndarray:
    """L(theta) - L(theta - lr g_i) for each batch of one sample, float64; the model is bit-identical afterwards.

    Args:
        model: in any mode; used in eval mode.
        singles: batches of one sample.
        validation: gives the validation batches, the same ones in the same order at each call.
        lr: of the SGD step.
        loss: of `sample_loss_of`.
        before: L(theta), if it is known.

    Raises:
        TamisError: parameters below float32.
    """
    named = _trainable(model)
    _can_step(model, 'reward="exact"')
    parameters = list(named.values())
    before = mean_loss(model, validation(), loss) if before is None else before
    kept = [p.detach().clone() for p in parameters]
    rewards = []
    for single in singles:
        with evaluating(model):
            total, count = loss(model, single)
            gradients = torch.autograd.grad(total.sum() / count.sum().clamp(min=1), parameters, allow_unused=True)
        try:
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    if gradient is not None:
                        parameter.sub_(gradient, alpha=lr)
            rewards.append(before - mean_loss(model, validation(), loss))
        finally:
            with torch.no_grad():
                for parameter, value in zip(parameters, kept, strict=True):
                    parameter.copy_(value)
    return np.array(rewards, np.float64)


def rewards_by(
    reward: str,
    model: nn.Module,
    validation: Callable[[], Iterable[Any]],
    lr: float,
    loss: SampleLoss,
    *,
    lookahead: int = 1,
    lookahead_lr: float = 0.1,
) -> Callable[[Iterable[Any]], np.ndarray]:
    """One function from batches to rewards; ``"first_order"`` takes its gradient once, now.

    Args:
        reward: ``"first_order"`` or ``"exact"``.
        model: in any mode.
        validation: gives the validation batches, the same ones in the same order at each call.
        lr: of the SGD step.
        loss: of `sample_loss_of`.
        lookahead: > 1: the gradient is that of the path of so many steps (`path_gradient`).
        lookahead_lr: of those steps.
    """
    if reward == "exact":
        return lambda batches: exact_rewards(model, batches, validation, lr, loss)
    if lookahead == 1:
        gradient = validation_gradient(model, validation(), loss)
    else:
        gradient = path_gradient(model, validation(), loss, steps=lookahead, lr=lookahead_lr)
    return lambda batches: np.concatenate([first_order_rewards(model, b, gradient, lr, loss) for b in batches])


class _Loss(nn.Module):
    """The loss as a module, so that `functional_call` lends the model itself, whole, to it with other parameters."""

    def __init__(self, model: nn.Module, loss: SampleLoss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self.loss(self.model, batch)


def _trainable(model: nn.Module) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not named:
        raise TamisError(f"{type(model).__name__} has no parameter that requires a gradient: nothing can be trained")
    return named


def keeps_small_steps(model: nn.Module) -> bool:
    """False if a trainable parameter is below float32, whose rounding swallows most of a step of 1e-4.

    Args:
        model: any module.
    """
    return all(p.element_size() >= 4 for p in _trainable(model).values())


def _can_step(model: nn.Module, what: str) -> None:
    if not keeps_small_steps(model):
        raise TamisError(
            f"{what}: {type(model).__name__} has parameters below float32, which round away most of so small a step; "
            'call model.float() first, or pass reward="first_order" with lookahead=1'
        )


def _some(count: int) -> int:
    if not count:
        raise TamisError("the validation data has no target token: give some, and look at what the tokenizer truncates")
    return count


@contextmanager
def _math_attention() -> Iterator[None]:
    """Attention by plain matrix products, which have forward-mode derivatives; the fused kernels have none."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
