"""DNIS: its equations against the slow reference, its invariants, and what it refuses."""

import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tamis.core.errors import NoEffectWarning, NotPolarisedError
from tamis.pruners import DNIS, DNISConfig
from tamis.pruners.dnis.equations import (
    alpha_step,
    blocks_by_frequency,
    flipped,
    normalised,
    validation_gradient,
)
from tamis.pruners.gates import gate_of
from tests.reference import dnis as reference
from tests.unit.dimreg_tools import STEPS, batches, make

QUICK = DNISConfig(blocks=3, alpha_lr=0.05, warm_up=0.2, decide_by=0.8)
PAPER = DNISConfig(blocks=3, alpha_lr=0.05, warm_up=0.2, decide_by=0.8, rank="magnitude", axes=False)


def run(pruner: DNIS, data=None, lr: float = 0.05) -> torch.optim.Optimizer:
    model, data = pruner.model, data or batches()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    held_out = batches(2 * STEPS)[STEPS:]
    for batch, other in zip(data, held_out, strict=False):
        optimizer.zero_grad()
        model(**batch)["loss"].backward()
        optimizer.step()
        pruner.step(validation_loss=lambda other=other: model(**other)["loss"])
    return optimizer


def trained(**options) -> DNIS:
    options = {"keep": 0.3, "config": QUICK, "total_steps": STEPS} | options
    if "size" in options:
        del options["keep"]
    pruner = DNIS(make(), **options)
    run(pruner)
    return pruner


# ---- equations


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=30),
    st.one_of(st.integers(1, 8), st.lists(st.integers(1, 6), min_size=1, max_size=4)),
    st.sampled_from(["count", "mass"]),
)
def test_blocks_are_the_reference(counts, blocks, by) -> None:
    found = blocks_by_frequency(torch.tensor(counts, dtype=torch.float32), blocks, by)
    assert found.tolist() == reference.blocks_by_frequency(counts, blocks, by)
    by_block = [[counts[i] for i in range(len(counts)) if found[i] == b] for b in range(int(found.max()) + 1)]
    filled = [block for block in by_block if block]
    assert all(min(head) >= max(tail) for head, tail in pairwise(filled))


def test_a_step_of_alpha_is_the_reference_and_stays_in_its_range() -> None:
    generator = np.random.default_rng(0)
    alpha = slow = torch.ones(4, 6).numpy()
    config = DNISConfig(alpha_lr=0.3, l1=0.01)
    for _ in range(20):
        gradient = generator.normal(size=(4, 6)) * 10.0 ** generator.integers(-3, 4, size=(4, 1))
        gradient[generator.integers(4)] = 0
        slow = reference.alpha_step(slow, gradient, 0.3, config.eps, 0.01)
        fast = alpha_step(torch.from_numpy(alpha), normalised(torch.from_numpy(gradient), config.eps), config)
        alpha = fast.numpy()
        assert np.allclose(alpha, slow, atol=1e-6)
        assert 0 <= alpha.min() <= alpha.max() <= 1


@given(st.integers(-3, 3))
def test_the_size_of_a_blocks_gradient_does_not_count(power: int) -> None:
    gradient = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scaled = gradient.clone()
    scaled[1] *= 10.0**power
    assert torch.allclose(normalised(scaled, 1e-12), normalised(gradient, 1e-12), atol=1e-6)


def test_random_signs_keep_the_size_and_are_a_function_of_their_key() -> None:
    direction = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(flipped(direction, 0, 7, 1).abs(), direction.abs())
    assert torch.equal(flipped(direction, 0, 7, 1), flipped(direction, 0, 7, 1))
    assert not torch.equal(flipped(direction, 0, 7, 1), flipped(direction, 0, 8, 1))


class Ten(nn.Module):
    """Ten weights and two alphas, in double precision."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(5, 2, generator=generator, dtype=torch.float64))
        self.alpha = torch.tensor([[0.9, 0.4]], dtype=torch.float64, requires_grad=True)
        self.data = torch.randn(2, 8, 5, generator=generator, dtype=torch.float64)
        self.labels = torch.randn(2, 8, generator=generator, dtype=torch.float64)

    def loss(self, part: int, alpha=None) -> torch.Tensor:
        alpha = self.alpha if alpha is None else alpha
        hidden = torch.tanh(self.data[part] @ self.weight) * alpha
        return (hidden.sum(1) - self.labels[part]).square().mean()


def test_the_second_order_term_is_the_derivative_through_the_look_ahead() -> None:
    model, xi, eps = Ten(), 0.1, 1e-6
    (found,) = validation_gradient(
        lambda: model.loss(1), [model.alpha], training=lambda: model.loss(0), weights=[model.weight], xi=xi
    )

    def ahead(alpha: torch.Tensor) -> float:
        other = Ten()
        (slope,) = torch.autograd.grad(other.loss(0, alpha), [other.weight])
        with torch.no_grad():
            other.weight.sub_(xi * slope)
        return float(other.loss(1, alpha).detach())

    for k in range(2):
        shift = torch.zeros(1, 2, dtype=torch.float64)
        shift[0, k] = eps
        alpha = model.alpha.detach()
        wanted = (ahead(alpha + shift) - ahead(alpha - shift)) / (2 * eps)
        assert float(found[0, k]) == pytest.approx(wanted, rel=1e-5)
    assert torch.equal(model.weight, Ten().weight)
    (first,) = validation_gradient(lambda: model.loss(1), [model.alpha], training=None, weights=[], xi=0.0)
    assert not torch.allclose(first, found)


# ---- the pruner


def test_a_training_is_the_reference_step_by_step() -> None:
    model = make()
    pruner = DNIS(model, keep=0.3, config=PAPER, total_steps=STEPS)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    held_out = batches(2 * STEPS)[STEPS:]
    counts = [np.zeros(table.rows) for table in pruner.tables]
    slow = [np.ones((min(3, table.rows), 8)) for table in pruner.tables]
    for number, (batch, other) in enumerate(zip(batches(), held_out, strict=True), 1):
        optimizer.zero_grad()
        model(**batch)["loss"].backward()
        optimizer.step()
        if number < 0.2 * STEPS + 1:
            for count, ids in zip(counts, batch["features"].T.numpy(), strict=True):
                np.add.at(count, ids, 1)
        pruner.step(validation_loss=lambda other=other: model(**other)["loss"])
        blocks = [reference.blocks_by_frequency(count.tolist(), 3) for count in counts]
        if 0.2 * STEPS <= number < 0.8 * STEPS:
            assert [gate_of(table).block.tolist() for table in pruner.tables] == blocks
            grads = alpha_gradients(pruner, other, slow)
            slow = [reference.alpha_step(a, g, 0.05, 1e-8) for a, g in zip(slow, grads, strict=True)]
            for gate, alpha in zip((gate_of(table) for table in pruner.tables), slow, strict=True):
                assert gate.alpha.detach().numpy() == pytest.approx(alpha, abs=1e-4)
        if number == int(0.8 * STEPS):
            tables = [table.weight.detach().double().numpy() for table in pruner.tables]
            wanted = reference.kept_columns(tables, blocks, slow, 0.3)
            for gate, keep in zip((gate_of(t) for t in pruner.tables), wanted, strict=True):
                assert (gate.kept.numpy() == keep).all()


def alpha_gradients(pruner: DNIS, batch, alphas) -> list[np.ndarray]:
    """d validation loss / d alpha at the reference's alpha, through a model without gates."""
    plain = make()
    found = [torch.tensor(alpha, dtype=torch.float32, requires_grad=True) for alpha in alphas]
    values = dict(pruner.model.named_parameters())
    for table, alpha in zip(pruner.tables, found, strict=True):
        name = f"{table.paths[0]}.weight"
        values[name] = table.weight.detach() * alpha[gate_of(table).block.long()]
    loss = torch.func.functional_call(plain, values, (), batch)["loss"]
    return [grad.numpy() for grad in torch.autograd.grad(loss, found)]


def test_ones_change_no_bit() -> None:
    plain, gated = make(), make()
    pruner = DNIS(gated, frequencies={t: torch.ones(n) for t, n in SIZES}, total_steps=STEPS)
    assert all(gate_of(table).active for table in pruner.tables)
    for batch in batches(2):
        assert torch.equal(plain(**batch)["logits"], gated(**batch)["logits"])


SIZES = [("embeddings.user", 60), ("embeddings.item", 40), ("embeddings.colour", 5)]


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("budget", [{"keep": 0.3}, {"size": 0.4}])
def test_the_cut_model_computes_what_the_gated_one_did_within_the_budget(structured, budget) -> None:
    config = DNISConfig(blocks=3, alpha_lr=0.05, decide_by=0.8, structured=structured)
    pruner = trained(config=config, **budget)
    model = pruner.model.eval()
    batch = batches(1)[0]
    with torch.no_grad():
        before = model(**batch)["logits"]
        plan = pruner.prune(example_inputs=batch)
        after = model(**batch)["logits"]
    assert torch.allclose(before, after, atol=1e-5)
    assert pruner.report.largest_removed == 0.0  # held at zero since it was decided
    share = plan.keep_share if "keep" in budget else plan.byte_share
    target = next(iter(budget.values()))
    assert target - 0.06 <= share <= target + 1e-9
    assert {table.form for table in plan.tables.values()} <= {"blocks", "values", "columns", "scatter"}


def test_alpha_learns_where_noise_does_not() -> None:
    """Labels depend on user and item only; what alpha becomes must differ from random signs there."""
    pruner = trained(config=DNISConfig(blocks=1, alpha_lr=0.02, decide_by=1.0))
    text = "\n".join(pruner.notes())
    assert re.search(r"alpha after \d+ validation steps", text)
    for table in pruner.tables:
        gate = gate_of(table)
        assert not torch.equal(gate.alpha.detach(), gate.control)
        assert bool(((gate.alpha >= 0) & (gate.alpha <= 1)).all())


def test_the_gradient_of_the_training_loss_never_reaches_alpha() -> None:
    pruner = trained(total_steps=10 * STEPS)  # still in the warm-up
    assert all(torch.equal(gate_of(t).alpha, torch.ones_like(gate_of(t).alpha)) for t in pruner.tables)
    with pytest.raises(NotPolarisedError, match=r"alpha never moved \(step 60 of total_steps=600"):
        pruner.prune()


def test_the_model_is_in_eval_mode_for_the_validation_loss_only() -> None:
    model = make()
    pruner = DNIS(model, config=DNISConfig(warm_up=0.1), total_steps=STEPS)
    seen = []
    for batch in batches(20):
        model(**batch)["loss"].backward()
        pruner.step(validation_loss=lambda: seen.append(model.training) or model(**batches(1)[0])["loss"])  # type: ignore
    assert set(seen) == {False}
    assert model.training


def test_alpha_that_changes_nothing_is_said() -> None:
    with pytest.warns(NoEffectWarning, match="alpha changes nothing"):
        trained(config=DNISConfig(blocks=3, alpha_lr=1e-9, decide_by=0.8))


def test_second_order_needs_and_uses_a_training_loss() -> None:
    model = make()
    pruner = DNIS(model, config=DNISConfig(xi=0.01, warm_up=0.01), total_steps=STEPS)
    first, second, third = batches(3)
    for batch in (first, second):
        model(**batch)["loss"].backward()
        before = [p.detach().clone() for p in model.parameters()]
        losses = {"validation_loss": lambda: model(**third)["loss"]}
        with pytest.raises(ValueError, match="xi > 0 looks ahead on a training batch"):
            pruner.step(**losses)
        pruner.step(**losses, training_loss=lambda batch=batch: model(**batch)["loss"])
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert any(bool((gate_of(t).alpha < 1).any()) for t in pruner.tables)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"blocks": 0}, "blocks=0"),
        ({"blocks": ()}, r"blocks=\(\)"),
        ({"block_by": "rank"}, "must be one of 'count', 'mass'"),
        ({"alpha_lr": 0.0}, "alpha_lr=0.0"),
        ({"warm_up": 0.6, "decide_by": 0.5}, "decide_by=0.5"),
        ({"xi": -1.0}, "xi=-1.0"),
    ],
)
def test_settings_are_checked(options, words) -> None:
    with pytest.raises(ValueError, match=words):
        DNISConfig(**options)


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match="give frequencies"):
        DNIS(make(), config=DNISConfig(warm_up=0.0))
    with pytest.raises(ValueError, match=r"frequencies\['embeddings.item'\]: must count the 40 rows"):
        DNIS(make(), frequencies={"embeddings.user": torch.ones(60)})
    with pytest.raises(ValueError, match=r"keep=0.2, size=0.1: must not be given both"):
        DNIS(make(), 0.1, keep=0.2)
    with pytest.raises(ValueError, match=r"size=0.02: holds 67 bytes, and what says where the rows stand takes 105"):
        DNIS(make(), 0.02)
    pruner = DNIS(make(), total_steps=STEPS)
    with pytest.raises(ValueError, match="must be given a validation loss"):
        pruner.step()


# ---- ours: contributions and axes


def test_contributions_are_value_times_slope_squared() -> None:
    model = make()
    pruner = DNIS(model, config=DNISConfig(blocks=2, warm_up=0.01, axes=False), total_steps=STEPS)
    first, second = batches(2)
    model(**first)["loss"].backward()
    pruner.step(validation_loss=lambda: model(**second)["loss"])
    plain = make()
    rows = {}
    for field, table in plain.embeddings.items():
        table.register_forward_hook(lambda m, a, out, field=field: rows.setdefault(field, out))
    loss = plain(**second)["loss"]
    for number, (field, table) in enumerate(zip(plain.embeddings, pruner.tables, strict=True)):
        (slope,) = torch.autograd.grad(loss, [rows[field]], retain_graph=True)
        wanted = torch.zeros_like(gate_of(table).gain)
        for row, grad, id in zip(rows[field].detach(), slope, second["features"][:, number], strict=True):
            wanted[gate_of(table).block[id].long()] += (row * grad).square()
        assert torch.allclose(gate_of(table).gain, wanted, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize(("name", "turned"), [("fm", True), ("deepfm", False), ("widedeep", False)])
def test_tables_are_turned_only_where_that_changes_no_output(name: str, turned: bool) -> None:
    model = make(name)
    with torch.no_grad():
        for table in model.embeddings.values():
            table.weight.mul_(20)  # so that the tables matter
    batch = batches(1)[0]
    before = model(**batch)["logits"].detach()
    tables = [table.weight.detach().clone() for table in model.embeddings.values()]
    pruner = DNIS(model, config=DNISConfig(warm_up=0.01), total_steps=STEPS)
    model(**batch)["loss"].backward()
    pruner.step(validation_loss=lambda: model(**batch)["loss"])
    for table in pruner.tables:
        gate_of(table).active = False  # the tables themselves
    assert torch.allclose(model(**batch)["logits"], before, atol=1e-4)
    after = [table.weight for table in model.embeddings.values()]
    assert any(not torch.equal(one, other) for one, other in zip(tables, after, strict=True)) is turned
    energy = sum(weight.detach().square().mean(0) for weight in after)
    assert bool((energy.diff() <= 1e-6).all()) is turned
    assert ("were turned" in pruner.notes()[-1]) is turned
