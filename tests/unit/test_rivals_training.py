"""A training of each learned pruner is the reference step by step: gradients through a model without gates."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from tamis.pruners.gates import gate_of
from tests.reference import rivals as reference
from tests.unit.dimreg_tools import batches, make
from tests.unit.rival_tools import pruner_of

STEPS = 20
pytestmark = pytest.mark.filterwarnings("ignore:LPFS. size=0.5 holds less than the whole of:tamis.NoEffectWarning")


def slopes(pruner, batch, leaves: Sequence[np.ndarray], factor: Callable[[Tensor, int], Tensor]) -> list[np.ndarray]:
    """d loss / d leaf of each table, where a table's rows are multiplied by factor(leaf, table), no gate involved."""
    plain = make()
    found = [torch.tensor(leaf, dtype=torch.float64, requires_grad=True) for leaf in leaves]
    values = {name: p.detach() for name, p in pruner.model.named_parameters()}
    for number, (table, leaf) in enumerate(zip(pruner.tables, found, strict=True)):
        values[f"{table.paths[0]}.weight"] = table.weight.detach() * factor(leaf, number).float()
    loss = torch.func.functional_call(plain, values, (), batch)["loss"]
    return [grad.numpy() for grad in torch.autograd.grad(loss, found)]


def steps(pruner):
    """A plain loop that stops before each backward, and after each step: (number, batch, validation batch)."""
    optimizer = torch.optim.Adam(pruner.model.parameters(), lr=0.02)
    data = batches(2 * STEPS)
    for number, (batch, other) in enumerate(zip(data[:STEPS], data[STEPS:], strict=True), 1):
        yield number, batch, other, "before"
        optimizer.zero_grad()
        (pruner.model(**batch)["loss"] + pruner.penalty()).backward()
        optimizer.step()
        yield number, batch, other, "stepped"
        losses = {"validation_loss": lambda other=other: pruner.model(**other)["loss"]} if pruner.validates else {}
        pruner.step(**losses)
        yield number, batch, other, "after"


def values_of(pruner) -> list[np.ndarray]:
    return [gate_of(table).value.detach().numpy() for table in pruner.tables]


def test_l1_gates() -> None:
    pruner = pruner_of("L1Gates", steps=STEPS, decide_by=1.0, strength=0.01)
    slow = [reference.Adam(np.full(8, 2.0), pruner.config.lr) for _ in pruner.tables]
    for _, batch, _, when in steps(pruner):
        if when == "before":
            grads = slopes(pruner, batch, [adam.value for adam in slow], lambda leaf, _: torch.sigmoid(leaf))
            for adam, grad in zip(slow, grads, strict=True):
                phi = np.array([reference.sigmoid(x) for x in adam.value])
                adam.step(grad + 0.01 * phi * (1 - phi))
        if when == "after":
            for found, adam in zip(values_of(pruner), slow, strict=True):
                assert found == pytest.approx(adam.value, abs=2e-4)


def test_sseds_looks_at_the_last_steps_only() -> None:
    pruner = pruner_of("SSEDS", steps=STEPS, batches=3)
    total = [np.zeros(8) for _ in pruner.tables]
    for number, batch, _, when in steps(pruner):
        if when == "before":
            assert all(gate_of(table).active is (number > STEPS - 3) for table in pruner.tables)
        if when == "before" and number > STEPS - 3:
            grads = slopes(pruner, batch, [np.ones(8)] * 3, lambda leaf, _: leaf)
            total = [t + g for t, g in zip(total, grads, strict=True)]
    every = sum(float(np.abs(t).sum()) for t in total)
    for found, wanted in zip(pruner.scores(), total, strict=True):
        assert found.numpy() == pytest.approx(np.abs(wanted) / every, rel=1e-3, abs=1e-7)
    assert sum(float(score.sum()) for score in pruner.scores()) == pytest.approx(1.0, rel=1e-5)


def test_ham() -> None:
    pruner = pruner_of("HAM", steps=STEPS, decide_by=0.8, lr=0.05)
    mu = [np.ones(8) for _ in pruner.tables]
    for number, _, other, when in steps(pruner):
        if when == "stepped" and 4 <= number < 16:
            masks = [gate_of(table).mask.double().numpy().copy() for table in pruner.tables]
            tau = float(gate_of(pruner.tables[0]).tau)
            grads = slopes(pruner, other, masks, lambda leaf, _: leaf)  # the unmasked rows stand behind the mask
            through = [reference.straight_through_gradient(g, m, tau) for g, m in zip(grads, mu, strict=True)]
            size = np.sqrt(np.mean(np.concatenate(through) ** 2))
            mu = [m - 0.05 * g / size for m, g in zip(mu, through, strict=True)]
        if when == "after" and number < 16:
            for found, wanted in zip(values_of(pruner), mu, strict=True):
                assert found == pytest.approx(wanted, abs=1e-3)
    assert pruner.decided
    open_ = [int(gate_of(table).kept.sum()) for table in pruner.tables]
    assert sum(n * t.rows for n, t in zip(open_, pruner.tables, strict=True)) <= 0.5 * 8 * 105


def test_orthogonality_makes_columns_less_alike() -> None:
    def overlap(weight: float) -> float:
        pruner = pruner_of("HAM", steps=STEPS, decide_by=1.0, orthogonal=weight)
        with torch.no_grad():
            for table in pruner.tables:
                table.weight[:, 1] = table.weight[:, 0] + 0.1 * table.weight[:, 1]
        for _ in steps(pruner):
            pass
        return pruner.logs()["tamis/overlap"]

    assert overlap(1.0) < 0.5 * overlap(1e-9)


def test_auto_dim() -> None:
    pruner = pruner_of("AutoDim", steps=STEPS)
    widths = [2, 4, 8]
    slow = [reference.Adam(np.zeros(3), pruner.config.lr) for _ in pruner.tables]

    def factor(leaf: Tensor, number: int) -> Tensor:
        gate = gate_of(pruner.tables[number])
        p = torch.softmax((torch.log_softmax(leaf, 0) + gate.noise) / float(gate.tau), 0)
        return torch.stack([p[[c for c in range(3) if j < widths[c]]].sum() for j in range(8)])

    for _, _, other, when in steps(pruner):
        if when == "stepped":
            grads = slopes(pruner, other, [adam.value for adam in slow], factor)
            for adam, grad in zip(slow, grads, strict=True):
                adam.step(grad)
        if when == "after":
            for found, adam in zip(values_of(pruner), slow, strict=True):
                assert found == pytest.approx(adam.value, abs=2e-3)


def test_lpfs() -> None:
    pruner = pruner_of("LPFS", steps=STEPS, decide_by=1.0, strength=0.2)
    c, x = pruner.config, [np.ones(1) for _ in pruner.tables]
    for number, batch, _, when in steps(pruner):
        if when == "before":
            epsilon = c.epsilon * (c.final_epsilon / c.epsilon) ** ((number - 1) / STEPS)
            start = reference.lpfs(1.0, c.epsilon, False, 0, 1)
            grads = slopes(pruner, batch, x, lambda leaf, _, e=epsilon, s=start: leaf**2 / (leaf**2 + e) / s)
            x = [
                np.array([reference.proximal(float(v[0] - c.lr * g[0]), c.lr * 0.2)])
                for v, g in zip(x, grads, strict=True)
            ]
        if when == "after":
            for found, wanted in zip(values_of(pruner), x, strict=True):
                assert found == pytest.approx(wanted, abs=1e-5)


def test_opt_fs_and_its_penalty() -> None:
    pruner = pruner_of("OptFS", None, size=None, steps=STEPS, strength=0.01)
    slow = [reference.Adam(np.full(table.rows, 0.5), pruner.config.lr) for table in pruner.tables]
    for number, batch, _, when in steps(pruner):
        if when == "before":
            tau = 200.0 ** ((number - 1) / STEPS)
            penalty = 0.01 * sum(reference.sigmoid(g * tau) for adam in slow for g in adam.value)
            assert float(pruner.penalty().detach()) == pytest.approx(penalty, rel=1e-4)
            scale = reference.sigmoid(0.5)
            leaves = [adam.value for adam in slow]
            grads = slopes(pruner, batch, leaves, lambda g, _, t=tau, s=scale: (torch.sigmoid(g * t) / s)[:, None])
            for adam, grad in zip(slow, grads, strict=True):
                p = np.array([reference.sigmoid(g * tau) for g in adam.value])
                adam.step(grad + 0.01 * tau * p * (1 - p))
        if when == "after" and number < 12:  # later tau makes Adam's sign of tiny gradients a matter of the last bit
            for found, adam in zip(values_of(pruner), slow, strict=True):
                assert found == pytest.approx(adam.value, abs=2e-3)


def test_pep_raises_its_threshold_by_the_decay_and_stops_at_the_budget() -> None:
    pruner = pruner_of("PEP", steps=STEPS, lr=1.0)
    slow = [reference.Adam(np.full(8, -15.0), 1.0) for _ in pruner.tables]
    for _, batch, _, when in steps(pruner):
        settled = pruner._settled
        if when == "before" and not settled:

            def shrunk(s: Tensor, number: int) -> Tensor:
                weight = pruner.tables[number].weight.detach().double()
                return torch.sign(weight) * torch.relu(weight.abs() - torch.sigmoid(s)) / weight

            grads = slopes(pruner, batch, [adam.value for adam in slow], shrunk)
            for adam, grad in zip(slow, grads, strict=True):
                adam.step(grad + pruner.config.decay * adam.value)
        if when == "after":
            for found, adam in zip(values_of(pruner), slow, strict=True):
                assert found == pytest.approx(adam.value, abs=2e-2)
    assert pruner._settled
    assert pruner.survivors() > 0
    assert float(pruner.gates.mean()) > -15.0


def test_deep_light_zeroes_what_the_schedule_says() -> None:
    pruner = pruner_of("DeepLight", steps=STEPS, every=2, warm_up=0.2, decide_by=1.0)
    values = sum(table.rows * table.width for table in pruner.tables)
    target = 1 - pruner.budget_total() / values
    seen = []
    for number, _, _, when in steps(pruner):
        zeros = sum(int((table.weight == 0).sum()) for table in pruner.tables)
        if when == "after" and number >= 4 and number % 2 == 0:
            sparsity = reference.deep_light_sparsity(number - 4, target, 16, None)
            assert zeros == values - round((1 - sparsity) * values)
            seen.append(zeros)
        elif when == "after" and number < 4:
            assert zeros == 0
    assert seen == sorted(seen)
    assert seen[-1] > 0.9 * target * values


def test_opt_embed_scores_a_population_and_keeps_the_best() -> None:
    """The loss is the widths: the best candidate of all generations is never lost."""
    pruner = pruner_of("OptEmbed", None, size=None, steps=STEPS, search=0.5, population=8, mutation=0.3)
    seen = []

    def price() -> Tensor:
        seen.append(sum(int(gate_of(table).width) for table in pruner.tables))
        return torch.tensor(float(seen[-1]))

    for _ in range(STEPS):
        pruner.penalty()
        pruner.step(validation_loss=price)
    assert len(seen) == 1 + 10 * 8  # the first says whether it is a loss at all
    assert pruner._best_loss == min(seen[1:]) == sum(pruner._best)
    assert min(seen[-8:]) < min(seen[1:9])
    assert int(gate_of(pruner.tables[0]).width) == 8  # the super-net is whole again
