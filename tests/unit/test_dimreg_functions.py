"""DimReg's equations against the slow reference, and their properties."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.pruners.base import Step
from tamis.pruners.budget import budget_at, split_by_budget
from tamis.pruners.dimreg import polarisation as P
from tamis.pruners.dimreg.config import ThesisConfig
from tamis.pruners.dimreg.rules import Gradients, MeanRule
from tamis.pruners.stats import CHUNK_ROWS, correlation, spectrum, top_pairs, weighted_moments
from tests.reference import dimreg as reference

gate_lists = st.lists(st.floats(0.001, 0.999), min_size=1, max_size=12)


def rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


@given(gate_lists, st.floats(-2, 2))
def test_polarisation_is_the_reference(phi: list[float], t: float) -> None:
    tensor = torch.tensor(phi, dtype=torch.float64)
    assert float(P.polarisation(tensor, t)) == pytest.approx(reference.polarisation(phi, t), abs=1e-9)
    assert float(P.polarisation(tensor.flip(0), t)) == pytest.approx(float(P.polarisation(tensor, t)), abs=1e-9)


@pytest.mark.parametrize("t", [-1.0, 0.0, 1.2, 2.0])
def test_polarisation_gradient(t: float) -> None:
    phi = torch.from_numpy(rng(1).uniform(0.01, 0.99, 9)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: P.polarisation(x, t), phi)
    (wanted,) = torch.autograd.grad(P.polarisation(phi, t), phi)
    found = P.polarisation_grad(phi.detach(), t)
    assert torch.allclose(found, wanted, atol=1e-12)
    assert found.tolist() == pytest.approx(reference.polarisation_grad(phi.tolist(), t), abs=1e-9)


def test_equal_gates_feel_only_the_temperature() -> None:
    assert P.polarisation_grad(torch.full((5,), 0.5), 1.2).tolist() == pytest.approx([1.2] * 5)
    assert float(P.polarisation(torch.zeros(4), 1.2)) == 0
    assert float(P.polarisation(torch.ones(4), 1.2)) == pytest.approx(4.8)


@pytest.mark.parametrize("t", [-2.5, -2.0, -1.0, 0.0, 0.5, 1.0, 1.2, 1.5, 1.7, 2.0, 2.5])
def test_the_share_kept_at_the_minimum_is_a_half_minus_a_quarter_t(t: float) -> None:
    n = 20
    values = [float(P.polarisation((torch.arange(n) < k).double(), t)) for k in range(n + 1)]
    best = [k / n for k, value in enumerate(values) if value < min(values) + 1e-9]
    assert min(abs(share - P.kept_share(t)) for share in best) <= 1 / (2 * n) + 1e-9


@pytest.mark.parametrize("n", [2, 5])
def test_no_interior_point_beats_the_corners(n: int) -> None:
    corners = min(float(P.polarisation(torch.tensor(c), 0.7)) for c in itertools.product([0.0, 1.0], repeat=n))
    inside = torch.from_numpy(rng(2).uniform(0, 1, (500, n)))
    assert min(float(P.polarisation(point, 0.7)) for point in inside) >= corners - 1e-9


@given(gate_lists.filter(lambda g: len(g) > 1), st.floats(-0.9, 0.9), st.data())
def test_pairs_are_the_reference(phi: list[float], t: float, data: st.DataObject) -> None:
    every = list(itertools.combinations(range(len(phi)), 2))
    chosen = data.draw(st.lists(st.sampled_from(every), max_size=6, unique=True))
    pairs = torch.tensor(chosen, dtype=torch.int64).reshape(-1, 2).T
    tensor = torch.tensor(phi, dtype=torch.float64)
    wanted = reference.pair_polarisation(phi, chosen, t)
    assert float(P.pair_polarisation(tensor, pairs, t)) == pytest.approx(wanted, abs=1e-9)


def test_pair_gradient() -> None:
    phi = torch.from_numpy(rng(3).uniform(0.01, 0.99, 8)).requires_grad_()
    pairs = torch.tensor([[0, 0, 3, 5], [1, 2, 4, 7]])
    assert torch.autograd.gradcheck(lambda x: P.pair_polarisation(x, pairs, 0.3), phi)
    (wanted,) = torch.autograd.grad(P.pair_polarisation(phi, pairs, 0.3), phi)
    value, found = P.pair_polarisation_with_grad(phi.detach(), pairs, 0.3)
    assert torch.allclose(found, wanted, atol=1e-12)
    assert torch.allclose(value, P.pair_polarisation(phi.detach(), pairs, 0.3), atol=1e-12)
    value, found = P.pair_polarisation_with_grad(phi.detach(), pairs[:, :0], 0.3)
    assert (float(value), found.tolist()) == (0.0, [0.0] * 8)


@pytest.mark.parametrize(("t", "kept"), [(0.0, 1), (0.9, 1), (-0.9, 1), (1.2, 0)])
def test_a_pair_keeps_one_gate_below_temperature_one_and_none_above(t: float, kept: int) -> None:
    leaf, pairs = torch.tensor([0.04, -0.04], requires_grad=True), torch.tensor([[0], [1]])
    adam = torch.optim.Adam([leaf], lr=0.02)
    for _ in range(2000):
        phi = torch.sigmoid(leaf.detach())
        leaf.grad = P.pair_polarisation_with_grad(phi, pairs, t)[1] * phi * (1 - phi)
        adam.step()
    assert int((leaf > 0).sum()) == kept


@given(
    st.lists(st.tuples(st.floats(0, 5, width=32), st.sampled_from([1.0, 4.0, 40.0, 1000.0])), min_size=1, max_size=40),
    st.floats(0, 1),
)
def test_the_budget_split_is_the_reference(gates: list[tuple[float, float]], share: float) -> None:
    score, cost = (list(column) for column in zip(*gates, strict=True))
    budget = share * sum(cost)
    found = split_by_budget(torch.tensor(score).double(), torch.tensor(cost, dtype=torch.float64), budget)
    assert found.tolist() == reference.split_by_budget(score, cost, budget)


def test_the_whole_budget_keeps_everything() -> None:
    cost = torch.full((416,), 0.1, dtype=torch.float64)
    assert split_by_budget(torch.zeros(416), cost, float(cost.sum())).all()


@given(st.floats(0, 1), st.floats(0.01, 1))
def test_the_schedule_is_the_reference(progress: float, target: float) -> None:
    wanted = reference.budget_at(progress, target, 0.05, 0.4)
    assert budget_at(progress, target, 0.05, 0.4) == pytest.approx(wanted)


def test_the_split_penalty_pushes_the_kept_up_and_the_others_down() -> None:
    phi = torch.tensor([0.2, 0.7, 0.5], requires_grad=True)
    keep = torch.tensor([True, False, True])
    P.split_polarisation(phi, keep, 0.25).backward()
    assert phi.grad.tolist() == [-0.75, 1.25, -0.75]
    assert torch.equal(P.split_polarisation_grad(keep, 0.25), phi.grad)


def test_the_weaker_of_a_redundant_pair_loses_what_the_stronger_explains() -> None:
    score = torch.tensor([3.0, 1.0, 1.0, 5.0])
    pairs, overlap = torch.tensor([[0, 1, 1], [1, 2, 3]]), torch.tensor([0.6, 1.0, 0.9])
    found = P.redundancy_discount(score, pairs, overlap)
    wanted = reference.redundancy_discount(score.tolist(), [(0.6, 0, 1), (1.0, 1, 2), (0.9, 1, 3)])
    assert found.tolist() == pytest.approx(wanted, abs=1e-6)
    assert found.tolist() == pytest.approx([3.0, 0.19, 0.0, 5.0], abs=1e-6)


def test_mirror_descent_moves_the_logit_by_the_slope() -> None:
    logits = torch.tensor([0.0, 0.0, -7.9, 3.9])
    found = P.mirror_step(logits, torch.tensor([0.5, 9.0, 1.0, -1.0]), 0.2, -8.0, 4.0)
    assert found.tolist() == pytest.approx([-0.1, -0.2, -8.0, 4.0])


def test_the_thesis_gates_move_by_adam() -> None:
    logits = torch.from_numpy(rng(4).normal(size=5)).float()
    rule, slow = MeanRule([5], ThesisConfig(gate_lr=0.01)), reference.Adam(5, 0.01)
    plain = logits.tolist()
    for step in range(1, 30):
        grad = torch.from_numpy(rng(5, step).normal(size=5)).float()
        logits = rule.move(logits, Gradients(grad, torch.zeros(5)), Step(step))
        plain = slow.step(plain, grad.tolist())
    assert logits.tolist() == pytest.approx(plain, abs=1e-5)


def test_a_tables_importance_is_dealt_out_by_its_spectrum() -> None:
    importance = [torch.tensor([1.0, 3.0, 2.0]), torch.tensor([4.0])]
    order = [torch.tensor([1.0, 0.0, 2.0]), torch.tensor([9.0])]
    spectra = [torch.tensor([0.7, 0.3, 0.0]), torch.tensor([1.0])]
    assert P.spectral_score(importance, order, spectra).tolist() == pytest.approx([1.8, 0.0, 4.2, 4.0])


# ---- correlation


def pearson(table: torch.Tensor, counts: torch.Tensor | None = None) -> torch.Tensor:
    return correlation(weighted_moments(table, counts)[1])


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 60), st.integers(2, 5), st.integers(0, 10**6))
def test_correlation_is_the_reference(rows: int, dims: int, seed: int) -> None:
    table, counts = rng(seed).normal(size=(rows, dims)), rng(seed, 1).integers(1, 9, rows)
    found = pearson(torch.from_numpy(table).float(), torch.from_numpy(counts))
    for j, k in itertools.product(range(dims), repeat=2):
        assert float(found[j, k]) == pytest.approx(reference.pearson(table, counts, j, k), abs=1e-5)


@pytest.mark.parametrize("mean", [0.0, 1.0, 100.0, 1e4])
def test_correlation_is_exact_whatever_the_mean(mean: float) -> None:
    rows = 3 * CHUNK_ROWS + 17
    base = rng(6).normal(size=(rows, 3))
    table = torch.from_numpy(base @ rng(7).normal(size=(3, 8)) + mean * rng(8).normal(size=8)).float()
    wanted = np.corrcoef(table.double().numpy(), rowvar=False)
    assert np.abs(pearson(table).numpy() - wanted).max() < 2e-6  # float32 sums differ between processors
    counts = torch.from_numpy(rng(9).integers(0, 5, rows))
    repeated = table.double().numpy().repeat(counts.numpy(), axis=0)
    assert np.abs(pearson(table, counts).numpy() - np.corrcoef(repeated, rowvar=False)).max() < 2e-6


def test_moments_of_a_table_whose_first_rows_are_not_like_the_others() -> None:
    table = torch.from_numpy(rng(10).normal(size=(20_000, 4)) + np.linspace(0, 1e3, 20_000)[:, None]).float()
    mean, covariance = weighted_moments(table)
    assert torch.allclose(mean, table.double().mean(0), rtol=1e-6)
    assert torch.allclose(covariance, torch.cov(table.double().T, correction=0), rtol=1e-5)


def test_a_constant_column_correlates_with_nothing() -> None:
    table = torch.from_numpy(rng(11).normal(size=(50, 3))).float()
    table[:, 1] = 7.25
    matrix = pearson(table)
    assert matrix[1].tolist() == [0, 0, 0]
    assert float(matrix[0, 0]) == pytest.approx(1)
    assert not pearson(table, torch.zeros(50)).any()


def test_the_spectrum_counts_the_directions_in_use() -> None:
    low_rank = rng(15).normal(size=(500, 2)) @ rng(16).normal(size=(2, 6))
    _, covariance = weighted_moments(torch.from_numpy(low_rank).float())
    shares = spectrum(covariance, torch.tensor([True] * 5 + [False]))
    assert shares.shape == (6,)
    assert float(shares.sum()) == pytest.approx(1)
    assert int((shares > 1e-6).sum()) == 2
    wanted = np.linalg.eigvalsh(np.cov(low_rank[:, :5], rowvar=False, bias=True))[::-1]
    assert shares[:2].tolist() == pytest.approx((wanted / wanted.sum())[:2].tolist(), rel=1e-4)
    assert not spectrum(covariance, torch.zeros(6, dtype=torch.bool)).any()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_top_pairs_are_the_reference(share: float) -> None:
    tables = [rng(12, i).normal(size=(n, 5)) @ rng(13, i).normal(size=(5, 5)) for i, n in enumerate((40, 3, 60))]
    live = [np.array([1, 1, 0, 1, 1]), np.ones(5), np.array([0, 1, 1, 1, 0])]
    weights = [rng(14, i).integers(1, 9, len(table)) for i, table in enumerate(tables)]
    wanted = reference.top_pairs(tables, weights, live, share, min_rows=30)
    matrices = [
        pearson(torch.from_numpy(table), torch.from_numpy(weight)) if len(table) >= 30 else None
        for table, weight in zip(tables, weights, strict=True)
    ]
    pairs, overlap = top_pairs(matrices, [torch.from_numpy(alive > 0) for alive in live], share)
    assert [tuple(pair) for pair in pairs.T.tolist()] == [(j, k) for _, j, k in wanted]
    assert overlap.tolist() == pytest.approx([rho for rho, _, _ in wanted], abs=1e-5)
