"""The equations of the pruners of other papers against slow references, and their invariants."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tamis.pruners import Budget, MDEConfig, find_tables
from tamis.pruners.auto_dim import PrefixGate, fit_widths
from tamis.pruners.budgeted import best_columns
from tamis.pruners.deep_light import sparsity_at
from tamis.pruners.gumbel import gumbel, gumbel_softmax, temperature
from tamis.pruners.ham import column_overlap, straight_through
from tamis.pruners.lpfs import proximal as proximal_step
from tamis.pruners.lpfs import smooth_l0
from tamis.pruners.mde import mixed_dimensions
from tamis.pruners.opt_embed import SuperGate, long_tailed, next_generation
from tamis.pruners.opt_fs import row_gate, tau_at
from tamis.pruners.pep import PEPConfig, ThresholdGate, soft_threshold
from tamis.pruners.values import Source, largest_values
from tests.reference import rivals as reference

floats = st.floats(-3, 3, allow_nan=False, width=32)


class Tables(nn.Module):
    def __init__(self, shapes) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(rows, width) for rows, width in shapes)


@given(st.data(), st.sampled_from([0.0, 0.5, 1.0]), st.floats(0.05, 1.0), st.booleans())
def test_the_best_columns_are_the_reference(data, power: float, share: float, pairs: bool) -> None:
    shapes = data.draw(st.lists(st.tuples(st.integers(1, 9), st.integers(2, 6)), min_size=1, max_size=4))
    tables = find_tables(Tables(shapes))
    scores = [data.draw(st.lists(floats, min_size=w, max_size=w)) for _, w in shapes]
    costs = [1.0 if pairs else 4.0 * rows for rows, _ in shapes]
    budget = Budget(keep=share) if pairs else Budget(size=share)
    total = budget.costs(tables)[1]
    found = best_columns([torch.tensor(row) for row in scores], tables, budget, power)
    wanted = reference.best_columns(scores, [rows for rows, _ in shapes], costs, total, power)
    spent = [
        sum(c * sum(k) for c, k in zip(costs, kept, strict=True)) for kept in (wanted, [f.tolist() for f in found])
    ]
    assert spent[1] <= total * (1 + 1e-9)
    values = {round(s * c**-power, 6) for row, c in zip(scores, costs, strict=True) for s in row}
    if len(values) == sum(map(len, scores)):  # without ties the choice is one and the same
        assert [part.tolist() for part in found] == wanted


def test_a_table_keeps_no_more_columns_than_its_rank() -> None:
    tables = find_tables(Tables([(2, 8), (50, 8)]))
    found = best_columns([torch.ones(8) * 5, torch.ones(8)], tables, Budget(size=0.9))
    assert [int(part.sum()) for part in found] == [2, 7]


# ---- values: PEP, DeepLight


@given(st.lists(st.integers(-6, 6), min_size=12, max_size=12), st.integers(0, 14))
def test_the_largest_values_are_the_reference(numbers, count: int) -> None:
    one = torch.tensor(numbers[:8], dtype=torch.float32).reshape(2, 4) * 0.37
    other = torch.tensor(numbers[8:], dtype=torch.float32).reshape(4, 1) * 0.37
    sources = [Source(*t.shape, lambda a, b, t=t: t[a:b]) for t in (one, other)]
    found = largest_values(sources, count)
    wanted = reference.largest_values([one.numpy(), other.numpy()], count)
    assert all((f.numpy() == w).all() for f, w in zip(found, wanted, strict=True))


def test_the_largest_values_of_a_large_table_are_exact_and_read_in_chunks() -> None:
    weight = torch.randn(300_000, 8, generator=torch.Generator().manual_seed(1)) ** 3 * 1e-4
    reads = []

    def read(start: int, stop: int) -> torch.Tensor:
        reads.append(stop - start)
        return weight[start:stop]

    (mask,) = largest_values([Source(300_000, 8, read)], 240_000)
    assert int(mask.sum()) == 240_000
    assert float(weight[mask].abs().min()) >= float(weight[~mask].abs().max())
    assert max(reads) * 8 <= 2**20
    assert sum(reads) == 3 * 300_000  # two to count, one to mark


@given(floats, st.floats(-20, 5))
def test_pep_shrinks_as_the_reference(v: float, s: float) -> None:
    found = float(soft_threshold(torch.tensor(v), torch.tensor(s)))
    assert found == pytest.approx(reference.soft_threshold(v, s), abs=1e-6)


@pytest.mark.parametrize("threshold", ["table", "column", "row", "value"])
def test_pep_gates_every_granularity(threshold: str) -> None:
    gate = ThresholdGate(5, 3, PEPConfig(threshold=threshold, start=-1.0))
    with torch.no_grad():
        gate.value.add_(torch.randn(gate.value.shape, generator=torch.Generator().manual_seed(0)))
    weight = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[4, 0], [2, 2]])
    found = gate(weight[ids], ids)
    s = gate.value.detach().expand(5, 3) if threshold != "column" else gate.value.detach()[None].expand(5, 3)
    for place in np.ndindex(2, 2, 3):
        row, k = int(ids[place[:2]]), place[2]
        wanted = reference.soft_threshold(float(weight[row, k]), float(s[row, k]))
        assert float(found[place].detach()) == pytest.approx(wanted, abs=1e-6)
    (slope,) = torch.autograd.grad(found.sum(), [gate.value])
    assert bool((slope != 0).any())


@given(st.integers(0, 900), st.floats(0.1, 1.0), st.sampled_from([None, 0.5, 0.99]))
def test_deep_light_goes_by_the_schedule(steps: int, target: float, damping) -> None:
    found = sparsity_at(steps, target, 600.0, damping)
    assert found == pytest.approx(reference.deep_light_sparsity(steps, target, 600.0, damping), abs=1e-6)
    assert sparsity_at(600, target, 600.0, None) == pytest.approx(0.99 * target)


# ---- HAM


def test_the_overlap_of_columns_is_the_reference_and_sees_no_scale_or_order() -> None:
    rows = torch.randn(9, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = float(column_overlap(rows))
    assert found == pytest.approx(reference.column_overlap(rows.numpy()), rel=1e-9)
    assert float(column_overlap(rows * torch.tensor([1.0, 3.0, 0.1, 100.0]))) == pytest.approx(found)
    assert float(column_overlap(rows[torch.randperm(9)])) == pytest.approx(found)
    assert float(column_overlap(torch.eye(5)[:, :3])) == 0.0
    assert float(column_overlap(torch.ones(5, 3))) == pytest.approx(1.0)


def test_the_hard_mask_has_the_gradient_of_the_clipped_identity() -> None:
    mu = torch.tensor([1.3, 0.2, -0.9, -1.2], requires_grad=True)
    mask = torch.tensor([1.0, 1.0, 0.0, 0.0])
    out = straight_through(mu, mask, 0.1)
    assert torch.equal(out, mask)
    weight = torch.tensor([2.0, -3.0, 5.0, 7.0])
    (slope,) = torch.autograd.grad((out * weight).sum(), [mu])
    wanted = reference.straight_through_gradient(weight.numpy(), mu.detach().numpy(), 0.1)
    assert slope.tolist() == wanted.tolist() == [0.0, -3.0, 5.0, 0.0]


# ---- AutoDim, AutoField


@given(st.lists(st.tuples(floats, floats), min_size=2, max_size=5), st.floats(0.2, 1.0))
def test_gumbel_softmax_is_the_reference(pairs, tau: float) -> None:
    logits, noise = ([pair[i] for pair in pairs] for i in (0, 1))
    found = gumbel_softmax(torch.tensor(logits, dtype=torch.float64), torch.tensor(noise, dtype=torch.float64), tau)
    assert found.tolist() == pytest.approx(reference.gumbel_softmax(logits, noise, tau), abs=1e-9)
    assert temperature(0, 5e-5) == 1.0
    assert temperature(10**6, 5e-5) == 0.01


def test_the_noise_is_gumbels_and_a_function_of_its_key() -> None:
    noise = gumbel(200_000, 0, 1)
    assert torch.equal(noise, gumbel(200_000, 0, 1))
    assert not torch.equal(noise[:5], gumbel(200_000, 0, 2)[:5])
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.01)
    assert float(noise.var()) == pytest.approx(np.pi**2 / 6, rel=0.02)


def test_the_factor_of_a_column_is_the_share_of_the_candidates_that_have_it() -> None:
    gate = PrefixGate(6, [1, 3, 6])
    with torch.no_grad():
        gate.value.copy_(torch.tensor([0.5, -1.0, 0.2]))
    gate.set_noise(0.7, 3, 4)
    p = reference.gumbel_softmax(gate.value.tolist(), gate.noise.tolist(), 0.7)
    assert gate.factor(gate.value).tolist() == pytest.approx(reference.auto_dim_factor(p, [1, 3, 6], 6), abs=1e-6)
    gate.learning = False
    gate.eval()
    quiet = reference.gumbel_softmax(gate.value.tolist(), [0.0] * 3, 0.7)
    assert gate.factor(gate.value).tolist() == pytest.approx(reference.auto_dim_factor(quiet, [1, 3, 6], 6), abs=1e-6)


def test_widths_step_down_where_it_costs_least_until_they_fit() -> None:
    scores = [[-1.0, -0.5, -3.0], [-2.0, -1.0, -0.4]]
    widths = [[1, 2, 4], [1, 2, 4]]
    assert fit_widths(scores, widths, [1.0, 1.0], 100.0) == [1, 2]
    assert fit_widths(scores, widths, [1.0, 1.0], 5.0) == [1, 1]
    assert fit_widths(scores, widths, [1.0, 1.0], 2.0) == [0, 0]
    assert fit_widths(scores, widths, [1.0, 1.0], 0.5) == [-1, -1]


# ---- LPFS, OptFS


@given(floats, st.floats(1e-4, 0.5), st.booleans())
def test_the_smooth_gate_is_the_reference(x: float, epsilon: float, plus: bool) -> None:
    found = float(smooth_l0(torch.tensor(x, dtype=torch.float64), epsilon, plus, 10.0, 2.0))
    assert found == pytest.approx(reference.lpfs(x, epsilon, plus, 10.0, 2.0), abs=1e-6)
    assert float(proximal_step(torch.tensor(x), 0.1)) == pytest.approx(reference.proximal(x, 0.1), abs=1e-6)
    assert float(smooth_l0(torch.tensor(0.0), epsilon, plus)) == 0.0


@given(floats, st.floats(1e-3, 0.5))
def test_the_slope_of_lpfs_plus_is_that_of_the_slides(x: float, epsilon: float) -> None:
    """It agrees with eps in both branches; with eps^2 in one, as the slides print the gate, it would not."""
    at = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(smooth_l0(at, epsilon, True, 10.0, 2.0), [at])
    assert float(slope) == pytest.approx(reference.lpfs_slope(x, epsilon, 10.0, 2.0), rel=1e-6)


@given(floats, st.floats(0, 1))
def test_the_row_gate_is_the_reference(g: float, progress: float) -> None:
    found = float(row_gate(torch.tensor(g), 0.5, tau_at(progress, 200.0)))
    assert found == pytest.approx(reference.opt_fs_gate(g, 0.5, progress, 200.0), abs=1e-4)
    assert float(row_gate(torch.tensor(0.5), 0.5, 1.0)) == pytest.approx(1.0)


# ---- OptEmbed


@given(st.floats(-2, 2, width=32))
def test_the_step_has_the_long_tailed_slope(x: float) -> None:
    at = torch.tensor(x, requires_grad=True)
    out = long_tailed(at)
    (slope,) = torch.autograd.grad(out, [at])
    assert float(out.detach()) == float(x > 0)
    assert float(slope) == pytest.approx(reference.long_tailed_slope(x), abs=1e-5)


def test_a_super_gate_outside_of_training_is_the_reference() -> None:
    gate = SuperGate(6, 4).eval()
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        gate.value.fill_(3.0)
        gate.width.fill_(3)
    found = gate(weight, torch.arange(6)).detach()
    for row in range(6):
        assert found[row].tolist() == pytest.approx(reference.opt_embed_row(weight[row].numpy(), 3.0, 3).tolist())


def test_a_super_gate_in_training_keeps_random_prefixes_that_the_step_decides() -> None:
    gate = SuperGate(6, 4)
    weight, ids = torch.ones(6, 4), torch.arange(6)
    gate.key = (0, 0, 5, 1)
    first = gate(weight, ids).detach()
    assert not torch.equal(first, gate(weight, ids).detach())  # a second micro-batch
    gate.calls = 0
    assert torch.equal(first, gate(weight, ids).detach())
    many = SuperGate(1, 4)
    many.key = (1,)
    widths = many(torch.ones(4000, 4), torch.zeros(4000, dtype=torch.long)).detach().sum(1)
    shares = [float((widths == k).float().mean()) for k in range(1, 5)]
    assert shares == pytest.approx([0.25] * 4, abs=0.03)


def test_a_generation_is_half_mutants_half_crossovers_and_leaves_its_parents_alone() -> None:
    parents = np.array([[1, 1, 1], [8, 8, 8]])
    kept = parents.copy()
    children = next_generation(parents, [8, 8, 8], 40, 0.1, np.random.default_rng(0))
    assert (parents == kept).all()
    assert children.shape == (40, 3)
    assert children.min() >= 1
    assert children.max() <= 8
    crossed = children[20:]
    assert set(np.unique(crossed)) <= {1, 8}
    assert (crossed[:, 0] != crossed[:, 2]).all()
    mutants = children[:20]
    assert 0 < float((mutants != parents[np.arange(20) % 2]).mean()) < 0.3


# ---- MDE


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("share", [0.15, 0.5])
def test_mixed_dimensions_are_the_reference(alpha: float, project: bool, share: float) -> None:
    rows, width = [1000, 200, 30, 3], 16
    budget = share * 4 * sum(rows) * width
    config = MDEConfig(alpha=alpha, project=project)
    found = mixed_dimensions(rows, [width] * 4, [4.0 * n for n in rows], budget, config, 4.0 if project else 0.0)
    wanted = reference.mixed_dimensions(rows, width, 4, budget, alpha, project)
    spent = [
        sum(4 * d * (n + (width if project and d < width else 0)) for d, n in zip(dims, rows, strict=True))
        for dims in (found, wanted)
    ]
    assert spent[0] <= budget
    assert found == wanted or spent[0] >= 0.97 * spent[1]  # projections make the cost jump where a table becomes whole
    assert found == sorted(found)


def test_widths_can_be_powers_of_two() -> None:
    found = mixed_dimensions([500, 60, 4], [32] * 3, [2000.0, 240.0, 16.0], 30_000.0, MDEConfig(powers_of_two=True))
    assert all(d & (d - 1) == 0 for d in found)
