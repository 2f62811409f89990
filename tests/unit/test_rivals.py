"""What holds for every pruner of another paper: the budget, the cut, training again, errors, warnings."""

import copy
import pickle  # noqa: TID251 -- what spawned workers do with a model

import pytest
import torch

from tamis import pruners
from tamis.core.errors import NoEffectWarning, NotPolarisedError
from tamis.pruners import quantize_embeddings
from tamis.pruners.gates import gate_of
from tests.unit.dimreg_tools import batches, make
from tests.unit.rival_tools import DECIDES_EARLY, QUICK, SIZE, pruner_of, run, trained

RETRAIN = {"SSEDS": "fresh", "HAM": "no", "AutoDim": "fresh", "AutoField": "fresh"}
RETRAIN |= {"PEP": "rewind", "OptEmbed": "rewind", "OptFS": "rewind"}
every = pytest.mark.parametrize("name", QUICK)
pytestmark = pytest.mark.filterwarnings("ignore::tamis.NoEffectWarning")


@every
def test_the_cut_holds_to_the_budget_and_trains_on(name: str) -> None:
    pruner, _, optimizer = trained(name)
    batch = batches(1)[0]
    model = pruner.model.eval()
    plan = pruner.prune(optimizer, example_inputs=batch)
    assert 0 < plan.byte_share <= SIZE * (1 + 1e-9)
    assert str(pruner.report)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for one in batches(3):
        optimizer.zero_grad()
        model(**one)["loss"].backward()
        optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


@pytest.mark.parametrize("name", DECIDES_EARLY)
def test_what_was_decided_is_held_so_that_the_cut_changes_no_output(name: str) -> None:
    pruner, _, _ = trained(name, decide_by=0.6)
    assert pruner.retrain == "no"
    assert pruner.decided
    batch = batches(1)[0]
    model = pruner.model.eval()
    before = model(**batch)["logits"].detach()
    pruner.prune(example_inputs=batch)
    assert pruner.report.largest_removed == 0.0
    assert torch.allclose(model(**batch)["logits"].detach(), before, atol=1e-5)


@every
def test_a_budget_in_bytes_and_in_pairs(name: str) -> None:
    full = sum(p.numel() * 4 for p in make().embeddings.parameters())
    for given in ({"budget_bytes": int(0.6 * full)}, {"keep": 0.6}):
        config = getattr(pruners, f"{name}Config")(**QUICK[name])
        pruner = getattr(pruners, name)(make(), config=config, total_steps=20, **given)
        run(pruner)
        plan = pruner.prune()
        if "budget_bytes" in given:
            assert sum(map(plan.bytes_after, plan.tables)) <= given["budget_bytes"]
        elif name not in ("PEP", "DeepLight"):  # a share of values there
            assert plan.keep_share <= 0.6 + 1e-6


@pytest.mark.parametrize("name", RETRAIN)
def test_methods_that_train_again_say_so_and_prepare_the_model(name: str) -> None:
    pruner, start, _ = trained(name)
    assert pruner.retrain == RETRAIN[name]
    with pytest.raises(RuntimeError, match=r"nothing was cut yet; call pruner\.prune\(\) first"):
        pruner.restart(make())
    plan = pruner.prune()
    if pruner.retrain != "no":
        assert "restart" in str(pruner.report)
    with pytest.raises(ValueError, match="this is the model that was cut"):
        pruner.restart(pruner.model)
    other = copy.deepcopy(start)
    with torch.no_grad():
        for table in other.embeddings.values():
            table.weight.add_(1.0)
    if pruner.retrain == "rewind":
        with pytest.raises(ValueError, match="does not hold the weights that the training began with"):
            pruner.restart(other)
    small = pruner.restart(start)
    assert small is start
    for path in plan.tables:
        found, wanted = small.get_submodule(path), pruner.model.get_submodule(path)
        assert type(found) is type(wanted)
        assert {n: v.shape for n, v in found.state_dict().items()} == {
            n: v.shape for n, v in wanted.state_dict().items()
        }
    optimizer = torch.optim.Adam(small.parameters(), lr=0.01)
    small(**batches(1)[0])["loss"].backward()
    optimizer.step()
    assert sum(p.numel() for p in small.parameters()) == sum(p.numel() for p in pruner.model.parameters())


@pytest.mark.parametrize("name", ["PEP", "AutoDim"])
def test_what_was_quantised_at_the_cut_is_trained_again_in_float(name: str) -> None:
    pruner, start, _ = trained(name)
    assert pruner.prune(quantize="int4").stored
    assert "quantise after the second training" in str(pruner.report)
    small = pruner.restart(start)
    small.train()(**batches(1)[0])["loss"].backward()
    assert any(p.grad is not None for t in small.embeddings.values() for p in t.parameters())
    assert quantize_embeddings(small.eval(), "int4").stored == pruner.report.plan.stored


@pytest.mark.parametrize("decide_by", [0.5, 1.0])
def test_opt_fs_changes_no_output_where_nothing_closes(decide_by: float) -> None:
    pruner = pruner_of("OptFS", size=None, steps=40, strength=0.0, lr=1e-6, decide_by=decide_by)
    run(pruner, 40)
    batch, model = batches(1)[0], pruner.model.eval()
    before = model(**batch)["logits"].detach()
    soft = [gate_of(table) for table in pruner.tables]
    for gate in soft:
        gate.hard, gate.tau = False, torch.tensor(200.0)
    assert torch.allclose(model(**batch)["logits"].detach(), before, atol=1e-5)
    pruner.wake()
    pruner.prune()
    assert torch.allclose(model(**batch)["logits"].detach(), before, atol=1e-5)


@every
def test_a_budget_that_holds_everything_warns(name: str) -> None:
    with pytest.warns(NoEffectWarning, match="holds every"):
        pruner_of(name, size=1.0)


@pytest.mark.parametrize("name", [name for name in QUICK if name != "MDE"])
def test_a_pruner_that_learned_nothing_cuts_nothing(name: str) -> None:
    pruner = pruner_of(name)
    with pytest.raises(NotPolarisedError, match="has learned nothing yet"):
        pruner.prune()
    assert pruner.report is None


@every
def test_settings_of_another_method_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"must be {name}Config"):
        getattr(pruners, name)(make(), config=pruners.DimRegConfig())


@pytest.mark.parametrize("name", [n for n in QUICK if getattr(getattr(pruners, n), "penalised", False) is True])
def test_a_forgotten_penalty_is_told(name: str) -> None:
    pruner = pruner_of(name)
    pruner.model(**batches(1)[0])["loss"].backward()
    losses = {"validation_loss": lambda: pruner.model(**batches(1)[0])["loss"]} if pruner.validates else {}
    with pytest.raises(RuntimeError, match=r"no penalty since the last step; add pruner\.penalty\(\)"):
        pruner.step(**losses)


@pytest.mark.parametrize("name", [name for name in QUICK if name not in ("MDE", "DeepLight")])
def test_a_gradient_that_is_not_finite_moves_no_gate(name: str) -> None:
    pruner = pruner_of(name, decide_by=1.0)
    run(pruner, 58)
    before = pruner.gates
    pruner.wake()
    (pruner.model(**batches(1)[0])["loss"] * float("nan") + pruner.penalty()).backward()
    options = {"validation_loss": lambda: pruner.model(**batches(1)[0])["loss"] * float("nan")}
    if name == "PEP":
        pruner._settled = False
    with pytest.raises(FloatingPointError, match="is not finite at step 59"):
        pruner.step(**(options if pruner.validates else {}))
    assert torch.equal(pruner.gates, before)


@every
def test_the_model_and_pruner_can_be_copied_and_pickled(name: str) -> None:
    pruner = pruner_of(name)
    run(pruner, 5)
    other = pickle.loads(pickle.dumps(pruner.model))  # noqa: S301
    assert other.state_dict().keys() == pruner.model.state_dict().keys()
    copied = copy.deepcopy(pruner.model)
    batch = batches(1)[0]
    assert torch.equal(copied.eval()(**batch)["logits"], pruner.model.eval()(**batch)["logits"])


@pytest.mark.parametrize("name", ["L1Gates", "SSEDS", "HAM", "AutoDim"])
def test_budgets_of_less_than_a_dimension_for_each_table(name: str) -> None:
    with pytest.raises(ValueError, match=r"less than one dimension of the smallest table, 'embeddings\.colour'"):
        pruner_of(name, size=0.001)
    with pytest.warns(UserWarning, match="at least one will keep nothing"):
        pruner_of(name, size=0.1)


@pytest.mark.parametrize("name", ["LPFS", "AutoField"])
def test_budgets_of_less_than_a_table(name: str) -> None:
    with pytest.raises(ValueError, match=r"holds less than the smallest table, 'embeddings\.colour'"):
        pruner_of(name, size=0.02)


NOTHING = {
    "L1Gates": ({"lr": 1e-9, "decide_by": 1.0}, "every column has the same score"),
    "PEP": ({"lr": 1e-9}, "the thresholds have pruned nothing"),
    "AutoDim": ({"lr": 1e-12}, "alpha is where it began"),
    "LPFS": ({"strength": 0.0, "lr": 1e-6, "decide_by": 1.0}, "no gate has fallen to zero"),
    "OptFS": ({"strength": 0.0, "lr": 1e-6}, "no gate is closed"),
    "OptEmbed": ({"lr": 1e-9, "search": 0.01}, "every row is above its threshold and every width is full"),
}


@pytest.mark.filterwarnings("default::tamis.NoEffectWarning")
@pytest.mark.parametrize("name", NOTHING)
def test_gates_that_cannot_act_are_told_of(name: str) -> None:
    changes, words = NOTHING[name]
    finds_its_own = name in ("LPFS", "OptFS", "OptEmbed")
    pruner = pruner_of(name, size=None if finds_its_own else SIZE, steps=10, **changes)
    run(pruner)
    if name == "OptEmbed":
        pruner._best = [8, 8, 8]
    with pytest.warns(NoEffectWarning, match=words):
        pruner.prune()


@pytest.mark.filterwarnings("default::tamis.NoEffectWarning")
@pytest.mark.parametrize("name", ["SSEDS", "AutoField"])
def test_a_loss_that_no_gate_reaches_is_told_of(name: str) -> None:
    pruner = pruner_of(name, steps=6)
    for batch in batches(6):
        loss = pruner.model.bias.square() + 0 * pruner.model(**batch)["loss"]
        loss.backward()
        losses = {"validation_loss": lambda: 0 * pruner.model(**batches(1)[0])["loss"]} if pruner.validates else {}
        pruner.step(**losses)
    with pytest.warns(NoEffectWarning, match="has the same score"):
        pruner.prune()


@pytest.mark.parametrize("name", ["PEP", "DeepLight", "OptFS", "OptEmbed"])
def test_a_tied_head_is_refused_where_rows_or_values_go(name: str) -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = torch.nn.Embedding(50, 8), torch.nn.Linear(8, 50, bias=False)
            self.head.weight = self.words.weight

    with pytest.raises(ValueError, match="a tied output head"):
        pruner_of(name, Tied())


@pytest.mark.parametrize("name", ["OptFS", "OptEmbed"])
def test_a_budget_smaller_than_its_index_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="what says where the rows stand takes 105"):
        pruner_of(name, size=0.02)


@pytest.mark.parametrize("name", ["PEP", "DeepLight"])
def test_single_values_need_dense_gradients(name: str) -> None:
    with pytest.raises(ValueError, match=r"'embeddings\.user' has sparse=True"):
        pruner_of(name, make(sparse=True))
    with pytest.raises(ValueError, match="where the rows of single values begin takes"):
        pruner_of(name, size=0.05)


@pytest.mark.parametrize("name", ["L1Gates", "SSEDS", "AutoDim", "LPFS", "AutoField", "OptFS", "OptEmbed", "MDE"])
def test_tables_with_sparse_gradients(name: str) -> None:
    model = make(sparse=True)
    pruner = pruner_of(name, model, steps=10)
    sparse = [t.weight for t in model.embeddings.values()] + [t.weight for t in model.linear.values()]
    dense = [p for p in model.parameters() if not any(p is s for s in sparse)]
    optimizers = [torch.optim.SparseAdam(sparse, lr=0.02), torch.optim.Adam(dense, lr=0.02)]
    for batch in batches(10):
        for optimizer in optimizers:
            optimizer.zero_grad()
        (model(**batch)["loss"] + pruner.penalty()).backward()
        for optimizer in optimizers:
            optimizer.step()
        pruner.step(**({"validation_loss": lambda batch=batch: model(**batch)["loss"]} if pruner.validates else {}))
    assert pruner.prune(optimizers).byte_share <= SIZE


@pytest.mark.parametrize("name", ["L1Gates", "HAM", "AutoDim", "OptEmbed"])
def test_half_precision_keeps_the_gates_in_float32(name: str) -> None:
    model = make().to(torch.bfloat16)
    pruner = pruner_of(name, model)
    run(pruner, 3, lr=0.01)
    assert pruner.gates.dtype == torch.float32
    assert model(**batches(1)[0])["logits"].dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["HAM", "AutoField"])
def test_a_validation_loss_that_says_nothing_is_refused(name: str) -> None:
    def stepped(loss) -> None:
        model = make()
        config = getattr(pruners, f"{name}Config")(warm_up=0.0)
        pruner = getattr(pruners, name)(model, 0.5, config=config, total_steps=10)
        batch = batches(1)[0]
        (model(**batch)["loss"] + pruner.penalty()).backward()
        pruner.step(validation_loss=loss(model, batch))

    with pytest.raises(ValueError, match=r"has no graph.*compute it without torch\.no_grad\(\)"):
        stepped(lambda model, batch: torch.no_grad()(lambda: model(**batch)["loss"]))
    with pytest.raises(ValueError, match="returned the same tensor twice"):
        stepped(lambda model, batch: (lambda found: lambda: found)(model(**batch)["loss"]))


def test_a_validation_loss_of_another_model_is_refused() -> None:
    pruner, other = pruner_of("AutoField"), make()
    pruner.model(**batches(1)[0])["loss"].backward()
    with pytest.raises(ValueError, match="the validation loss goes through no gate"):
        pruner.step(validation_loss=lambda: other(**batches(1)[0])["loss"])


@pytest.mark.filterwarnings("default::tamis.NoEffectWarning")
def test_opt_embed_tells_of_losses_that_are_all_equal() -> None:
    pruner = pruner_of("OptEmbed", size=None, steps=10, search=1.0)
    pruner.penalty()
    with pytest.warns(NoEffectWarning, match="every candidate has the same validation loss"):
        pruner.step(validation_loss=lambda: pruner.model.bias.square().sum())
    with pytest.raises(ValueError, match="population=5: must be even"):
        pruners.OptEmbedConfig(population=5)


def test_a_model_from_before_the_decision_is_told_apart_without_a_budget() -> None:
    pruner = pruner_of("LPFS", size=None, steps=10, strength=50.0, decide_by=0.8)
    run(pruner, 2)
    early = {name: value.clone() for name, value in pruner.model.state_dict().items()}
    run(pruner, 10)
    assert pruner.decided
    pruner.model.load_state_dict(early)
    with (
        pytest.warns(UserWarning, match="nothing is left"),
        pytest.warns(UserWarning, match="restored from before the cut was decided"),
    ):
        pruner.prune()


def test_a_model_of_nothing_is_told_of() -> None:
    pruner = pruner_of("LPFS", size=None, steps=10, strength=50.0)
    run(pruner, 10)
    with pytest.warns(UserWarning, match="nothing is left of any table"):
        pruner.prune()


@pytest.mark.parametrize("name", ["DNIS", "DimReg"])
def test_settings_of_another_method_are_refused_by_the_other_pruners(name: str) -> None:
    with pytest.raises(TypeError, match=f"config=L1GatesConfig: must be {name}Config"):
        getattr(pruners, name)(make(), config=pruners.L1GatesConfig())
