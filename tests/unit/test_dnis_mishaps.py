"""DNIS where something goes wrong around it: old checkpoints, refused cuts, tied heads, losses of the wrong kind."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tamis.callbacks.validation import ValidationBatches
from tamis.core.errors import NoEffectWarning
from tamis.pruners import DNIS, DNISConfig, Selection, cut
from tamis.pruners.dnis.axes import turn_tables
from tamis.pruners.gates import gate_of
from tests.unit.dimreg_tools import STEPS, batches, make
from tests.unit.test_dnis import QUICK, run, trained


def test_a_model_from_before_the_decision_is_decided_anew_within_the_budget() -> None:
    """As ``load_best_model_at_end`` restores it: the pruner is told nothing."""
    pruner = DNIS(make(), 0.4, config=QUICK, total_steps=STEPS)
    run(pruner, batches()[: STEPS // 2])
    early = {name: value.clone() for name, value in pruner.model.state_dict().items()}
    run(pruner, batches()[STEPS // 2 :])
    pruner.model.load_state_dict(early)
    with pytest.warns(UserWarning, match="restored from before the cut was decided"):
        plan = pruner.prune()
    assert plan.byte_share <= 0.4


def test_a_refused_cut_decides_nothing() -> None:
    pruner = trained(config=DNISConfig(blocks=3, alpha_lr=0.05, decide_by=1.0), total_steps=STEPS + 1)
    with pytest.raises(ValueError, match="no_such_layer"):
        pruner.prune(consumers={"no_such_layer": ["embeddings.user"]})
    assert all(bool(gate_of(table).kept.all()) for table in pruner.tables)
    assert pruner.prune().keep_share <= 0.3


class TiedHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 8)
        self.head = nn.Linear(8, 50, bias=False)
        self.head.weight = self.words.weight


def test_a_tied_output_head_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'words' is also the weight of another layer"):
        DNIS(TiedHead())


def test_what_it_learns_stays_float32() -> None:
    pruner = trained()
    pruner.model.to(torch.bfloat16)
    for table in pruner.tables:
        gate = gate_of(table)
        assert {gate.alpha.dtype, gate.control.dtype, gate.gain.dtype} == {torch.float32}


@pytest.mark.parametrize("why", ["loss", "frozen"])
def test_tables_that_do_not_count_or_must_not_change_are_not_turned(why: str) -> None:
    pruner = DNIS(make("fm"), total_steps=STEPS)
    batch, before = batches(1)[0], [table.weight.detach().clone() for table in pruner.tables]
    pruner.tables[0].weight.requires_grad_(why != "frozen")
    loss = (lambda: torch.zeros(())) if why == "loss" else (lambda: pruner.model(**batch)["loss"])
    assert turn_tables(pruner.tables, loss) == why
    assert all(torch.equal(one, table.weight) for one, table in zip(before, pruner.tables, strict=True))


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (0.3, "validation_loss=float: must be computed anew at each call"),
        (torch.tensor(0.3), "validation_loss=Tensor: must be computed anew"),
        (lambda: {"loss": torch.tensor(0.3)}, "must return one number as a tensor of floats, got dict"),
        (lambda: torch.rand(3), r"got torch.float32 \[3\]"),
        (lambda: 0.3, "got float"),
    ],
)
def test_a_loss_of_the_wrong_kind_is_told_at_the_first_step(loss: object, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        DNIS(make(), total_steps=STEPS).step(validation_loss=loss)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [float("nan"), -1.0])
def test_frequencies_that_count_nothing_are_refused(bad: float) -> None:
    counts = {f"embeddings.{name}": torch.ones(n) for name, n in (("user", 60), ("item", 40), ("colour", 5))}
    counts["embeddings.item"][3] = bad
    with pytest.raises(ValueError, match=r"frequencies\['embeddings.item'\]: must be finite and >= 0"):
        DNIS(make(), frequencies=counts)


def test_a_table_of_which_nothing_is_left_is_named() -> None:
    pruner = DNIS(make(), 0.06, config=QUICK, total_steps=STEPS)
    with pytest.warns(UserWarning, match="size=0.06 leaves nothing of the tables .*embeddings.user"):
        run(pruner)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)
        pruner.prune()
    assert "nothing is left of: " in str(pruner.report)


def test_ids_that_are_no_numbers_of_rows_get_the_error_of_torch() -> None:
    model = nn.Sequential(nn.Embedding(6, 4))
    DNIS(model, 0.9, config=DNISConfig(blocks=2))
    with pytest.raises(RuntimeError, match="indices"):
        model(torch.rand(3))


def test_select_may_give_plain_columns() -> None:
    """A pruner of one's own that returns the columns themselves."""

    class Some(DNIS):
        def select(self):
            super().select()
            return {table.field: torch.arange(2) for table in self.tables}

    pruner = Some(make(), 0.4, config=QUICK, total_steps=STEPS)
    run(pruner)
    pruner.prune()
    assert {field.kept for field in pruner.report.fields} == {2}


def test_a_loader_is_told_to_give_its_data_set() -> None:
    loader = DataLoader(TensorDataset(torch.arange(4)))
    with pytest.raises(TypeError, match=r"give loader\.dataset"):
        ValidationBatches(loader, batch_size=2, collate=list)


def test_columns_of_blocks_come_back_at_their_places() -> None:
    model = nn.Sequential(nn.Embedding(6, 4))
    block, kept = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]]).bool()
    wanted = model[0].weight.detach() * kept[block]
    cut(model, {"0": Selection.blocks(block, kept)})
    assert torch.equal(model(torch.arange(6)), wanted)
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.tensor([-1]))
