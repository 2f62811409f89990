"""The sampler's choice, its diversity, the scorers, and the policy as an artefact."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tamis
from tamis.core.errors import PolicyError
from tamis.core.rng import numpy_generator, torch_generator
from tamis.samplers import (
    Alignment,
    CompetenceSampler,
    CurriculumPolicy,
    CurriculumSampler,
    FeatureTable,
    Length,
    LogLikelihood,
    LossDifference,
    Rarity,
    curriculum_features,
)
from tamis.samplers.competence import competence
from tamis.samplers.curriculum.agent import AgentNetwork, initialise
from tamis.samplers.curriculum.sampler import best_of, permuted
from tests.reference import curriculum as reference

COLUMNS = {"length": ("en",), "log_likelihood": ("sum", "per_token")}


def features(n=200, seed=1):
    values = torch.randn(n, 3, generator=torch_generator(seed))
    return FeatureTable({"length": values[:, :1], "log_likelihood": values[:, 1:]}, COLUMNS)


def policy(**changes):
    agent = AgentNetwork({name: len(names) for name, names in COLUMNS.items()}, (6, 5))
    initialise(agent, 3)
    fields = dict(
        columns=COLUMNS, widths={"length": 1, "log_likelihood": 8}, hidden=(6, 5), pool=8, distinct=0.9,
        best=("a b",), worst=("x",), agent={k: v.detach().clone() for k, v in agent.state_dict().items()},
        mean=torch.tensor([0.5, 0.0, -0.5]), scale=torch.tensor([1.0, 2.0, 0.5]), reference=features(32, 2).matrix(),
    )  # fmt: skip
    return CurriculumPolicy(**{**fields, **changes})


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 700), st.integers(0, 2**62))
def test_permuted_is_a_permutation(size, key):
    assert sorted(permuted(np.arange(size), size, key).tolist()) == list(range(size))


def test_permutations_look_uniform():
    hits = np.zeros((10, 10))
    for key in range(4000):
        hits[np.arange(10), permuted(np.arange(10), 10, key)] += 1
    chi = ((hits - 400) ** 2 / 400).sum()
    assert chi < 81 + 5 * np.sqrt(2 * 81)


def test_each_choice_is_the_best_of_its_pool_and_a_pass_repeats_nothing():
    scores = torch.from_numpy(numpy_generator(1).integers(0, 30, 103).astype(np.float32))  # with ties
    sampler = CurriculumSampler(scores, pool=10, seed=5)
    order = list(sampler)
    assert len(sampler) == len(order) == 10 == len(set(order))
    pools = permuted(np.arange(100), 103, 0x63757272, 5, 0).reshape(10, 10)
    assert order == reference.best_of(scores.tolist(), pools.tolist())


def test_epochs_go_on_through_the_passes():
    scores = torch.randn(100, generator=torch_generator(2))
    whole = list(CurriculumSampler(scores, pool=10, num_samples=24, seed=1))
    short = CurriculumSampler(scores, pool=10, num_samples=8, seed=1)
    parts = []
    for epoch in range(3):
        short.set_epoch(epoch)
        parts += list(short)
    assert parts == whole
    assert len(set(whole[:10])) == 10


def test_no_repeat_is_a_floor_of_diversity_and_report_counts():
    scores = torch.randn(120, generator=torch_generator(2))
    free = CurriculumSampler(scores, pool=10).report(6)
    floor = CurriculumSampler(scores, pool=10, no_repeat=3)
    assert free["chosen"] == 72 > free["distinct"]
    assert floor.report(3) == {"chosen": 36, "distinct": 36, "share": 1.0, "of_data": 0.3}
    assert floor.report(6)["share"] > free["share"]
    assert set(np.concatenate(list(CurriculumSampler(scores, pool=1).arrays())).tolist()) == set(range(120))
    floor.set_epoch(2)
    assert floor.report() == floor.report(3)


def test_a_stream_gives_the_best_of_every_pool():
    scores = torch.randn(57, generator=torch_generator(4))
    want = [10 * k + int(scores[10 * k : 10 * k + 10].argmax()) for k in range(5)]
    assert list(best_of(scores.split(7), 10)) == want == list(best_of(iter([scores]), 10))


def test_scorers_are_one_liners():
    data = {"en": ["a a b", "c", "a b c d"], "de": ["x", "x y", "x x"]}
    table = curriculum_features(data, text=["en", "de"])
    table = table.with_group("log_likelihood", [[-6.0, -2.0], [-1.0, -1.0], [-8.0, -2.0]], ("sum", "per_token"))
    table = table.with_group("other", [[-3.0, -1.0], [-2.0, -2.0], [-8.0, -2.0]], ("sum", "per_token"))
    table = table.with_group("alignment", [0.1, -0.2, 0.3])
    assert Length()(table).tolist() == [4, 3, 6]
    words = [w for text in data["en"] for w in text.split()]
    wanted = [-sum(np.log(words.count(w) / len(words)) for w in text.split()) for text in data["en"]]
    assert np.allclose(Rarity()(table), wanted, atol=1e-5)
    assert LogLikelihood()(table).tolist() == [-2, -1, -2]
    assert LogLikelihood(per_token=False, sign=-1)(table).tolist() == [6, 1, 8]
    assert LossDifference("other")(table).tolist() == [1, -1, 0]
    assert list(CurriculumSampler(Alignment(), table, pool=3)) == [2]
    with pytest.raises(KeyError, match=r"tags\.pos"):
        table.column("tags", "pos")


def test_competence_grows_as_the_paper_says():
    difficulty = torch.randn(1000, generator=torch_generator(1))
    rank = torch.argsort(torch.argsort(difficulty)).numpy()
    sampler = CompetenceSampler(difficulty, total=3000, initial=0.1, num_samples=1000)
    for epoch in range(4):
        sampler.set_epoch(epoch)
        picks = np.array(list(sampler))
        bound = [reference.competence(epoch * 1000 + i, 3000, 0.1) * 1000 for i in range(1000)]
        assert (rank[picks] < np.ceil(bound)).all()
        assert rank[picks[-100:]].max() > 0.8 * bound[-1]
    assert competence(3000, 3000, 0.1) == 1.0


def test_policies_survive_the_disk_and_score_alike(tmp_path):
    made = policy()
    made.save(tmp_path)
    again = tamis.load_policy(tmp_path)
    assert again == made
    table = features()
    assert torch.equal(again(table), made(table))
    swapped = FeatureTable(dict(reversed(table.groups.items())), dict(reversed(table.layout.items())))
    assert torch.equal(made(swapped), made(table))
    x = (table.matrix() - made.mean) / made.scale
    state = {name: value.tolist() for name, value in made.agent.items()}
    rows = x.clamp(-5, 5).tolist()
    want = [reference.actor_score(state, [row[:1], row[1:]]) for row in rows]
    assert np.allclose(made(table), want, atol=1e-5)
    assert list(CurriculumSampler(made, table)) == list(CurriculumSampler(made(table), pool=8))


def test_scores_do_not_depend_on_the_block(monkeypatch):
    made, table = policy(), features()
    want = made(table)
    monkeypatch.setattr("tamis.samplers.curriculum.sampler.BLOCK", 33)
    assert torch.allclose(made(table), want, atol=1e-6)
    order = list(CurriculumSampler(want, pool=8))
    monkeypatch.undo()
    assert list(CurriculumSampler(want, pool=8)) == order


def test_partial_dependence_summary_and_plot(tmp_path):
    made = policy()
    weights = {name: torch.zeros_like(value) for name, value in made.agent.items()}
    for name in ("features.layers.0", "actor.layers.0", "actor.layers.1", "actor.layers.2"):
        weights[f"{name}.weight"][0, 0] = 1.0
    weights["features.layers.0.bias"][0] = 9.0
    made = policy(agent=weights)
    values, scores = made.partial_dependence()["length.en"]
    assert torch.allclose(scores.diff() / values.diff(), 1 / made.scale[0], atol=1e-4)
    text = made.summary()
    assert "prefers length.en high" in text.splitlines()[1]
    assert "90.0% of the samples" in text
    assert "most wanted: a b" in text
    made.plot(tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_bad_input_is_named():
    made, table = policy(), features()
    with pytest.raises(PolicyError, match="log_likelihood"):
        made(FeatureTable({"length": table.groups["length"]}, {"length": ("en",)}))
    with pytest.raises(PolicyError, match="knows nothing of extra"):
        made(table.with_group("extra", torch.zeros(200)))
    with pytest.raises(ValueError, match="pool=300: must be <= the 200"):
        CurriculumSampler(made, table, pool=300)
    with pytest.raises(ValueError, match=r"scores\[1\]=nan"):
        CurriculumSampler(torch.tensor([1.0, float("nan")]), pool=2)
    with pytest.raises(ValueError, match="features=None"):
        CurriculumSampler(made)
    with pytest.raises(ValueError, match="agent"):
        policy(hidden=(7, 5))
    with pytest.raises(ValueError, match="must be sorted by name"):
        policy(columns=dict(reversed(COLUMNS.items())))
    with pytest.raises(ValueError, match="scale"):
        policy(scale=torch.zeros(3))
    with pytest.raises(ValueError, match="difficulty"):
        CompetenceSampler(torch.tensor([float("inf")]), total=3)
    sampler = CurriculumSampler(made, table)
    with pytest.raises(ValueError, match="saved sampler"):
        CurriculumSampler(-made(table), pool=8).load_state_dict(sampler.state_dict())
    with pytest.raises(ValueError, match="saved sampler"):
        CompetenceSampler(torch.arange(3.0), total=3).load_state_dict(
            CompetenceSampler(torch.arange(3.0), total=4).state_dict()
        )
