from __future__ import annotations

import dataclasses
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tamis
from tamis import DataInfo, Policy, PolicyError, SearchInfo, register_policy
from tamis.policy import registry as policy_module
from tests.golden.toys import PlainPolicy, Range, ToyPolicy, plain, same, toy


def document(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "policy.json").read_text())


# ---- round trip

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
number = st.floats(allow_nan=False, allow_infinity=False)
whole = st.integers(-(2**63), 2**63 - 1)
scalar = st.none() | st.booleans() | whole | number | text
tensor = st.builds(
    lambda shape, dtype, step: (torch.arange(24).reshape(2, 3, 4) % 7)[: shape[0], : shape[1], ::step].to(dtype),
    st.tuples(st.integers(0, 2), st.integers(0, 3)),
    st.sampled_from(
        [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]
    ),
    st.integers(1, 3),
)
ranges = st.builds(lambda low, high: Range(low=min(low, high), high=max(low, high)), number, number)
policies = st.builds(
    ToyPolicy,
    steps=st.integers(1, 2**63 - 1),
    rate=number,
    name=text,
    mirrored=st.booleans(),
    limit=st.none() | whole,
    ops=st.lists(text, max_size=3).map(tuple),
    pair=st.tuples(whole, number),
    sizes=st.dictionaries(text, whole, max_size=3),
    nested=st.dictionaries(text, st.lists(ranges, max_size=2).map(tuple), max_size=2),
    weights=tensor,
    kept=st.dictionaries(text, tensor, max_size=3),
    data=st.none() | st.builds(DataInfo, n=st.none() | st.integers(0, 2**40), classes=st.just(("a", "b"))),
    search=st.none() | st.builds(SearchInfo, seed=whole, score=number, config=st.dictionaries(text, scalar)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(policy=policies)
def test_a_saved_policy_loads_equal(policy: ToyPolicy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    loaded = tamis.load_policy(tmp_path)
    assert type(loaded) is ToyPolicy
    assert same(loaded, policy)
    if policy.search is not None:  # == holds between True, 1 and 1.0; the types must hold too
        kinds = {key: type(value) for key, value in policy.search.config.items()}
        assert {key: type(value) for key, value in loaded.search.config.items()} == kinds


def test_saving_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        toy().save(tmp_path / name)
    files = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("a", "b")]
    assert files[0] == files[1]
    assert len(files[0]) == 2


def test_made_by_is_filled_at_save(tmp_path: Path) -> None:
    toy().save(tmp_path)
    assert tamis.load_policy(tmp_path).made_by == {"tamis": tamis.__version__, "torch": torch.__version__}


def test_tensors_may_share_memory_and_need_gradients(tmp_path: Path) -> None:
    base = torch.arange(6.0, requires_grad=True)
    policy = ToyPolicy(steps=1, weights=base, kept={"view": base[2:4], "wide": torch.ones(1).expand(5)})
    policy.save(tmp_path)
    assert tamis.load_policy(tmp_path) == policy


def test_numpy_scalars_are_saved_as_numbers(tmp_path: Path) -> None:
    policy = ToyPolicy(steps=np.int64(3), rate=np.float32(0.5), mirrored=np.bool_(True), sizes={"a": np.int32(2)})
    policy.save(tmp_path)
    assert tamis.load_policy(tmp_path) == policy


# ---- equality


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 4},
        {"ops": ("flip",)},
        {"nested": {}},
        {"weights": torch.zeros(3, 4)},
        {"weights": toy().weights.double()},
        {"weights": toy().weights.reshape(4, 3)},
        {"kept": {}},
        {"kept": {**toy().kept, "emb.user": torch.tensor([0, 2, 6])}},
    ],
)
def test_policies_differ_by_spec_and_tensors(change: dict[str, Any]) -> None:
    assert toy() == toy()
    assert hash(toy()) == hash(toy())
    assert dataclasses.replace(toy(), **change) != toy()


def test_provenance_does_not_count_for_equality_and_nan_equals_itself() -> None:
    assert dataclasses.replace(toy(), data=None, search=None) == toy()
    assert ToyPolicy(steps=1, weights=torch.tensor([float("nan")])) == ToyPolicy(
        steps=1, weights=torch.tensor([float("nan")])
    )
    assert toy() != plain()


# ---- what cannot be saved


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": True}, "spec.steps=True: must be int, got bool"),
        ({"steps": 2**70}, "must fit 64 bits"),
        ({"rate": float("nan")}, "spec.rate=nan: must be finite"),
        ({"rate": "0.5"}, "must be float, got str"),
        ({"ops": ["flip"]}, "must be tuple.*got list"),
        ({"pair": (1, 2.0, 3)}, "spec.pair: must have 2 items, got 3"),
        ({"sizes": {1: 2}}, "spec.sizes: key=1: must be str"),
        ({"name": "\ud800"}, "must be valid Unicode"),
        ({"nested": {"a": ({"low": 0.0},)}}, r"spec.nested\['a'\]\[0\].*must be Range"),
        ({"kept": {"a": [1]}}, "kept.a=.*must be a dense torch.Tensor"),
        ({"kept": {1: torch.zeros(1)}}, "must be a dict of tensors with str keys"),
        ({"weights": torch.eye(2).to_sparse()}, "must be a dense torch.Tensor"),
        ({"search": SearchInfo(seed=0, config={"lr": [1]})}, r"search.config\['lr'\]"),
    ],
)
def test_a_wrong_value_is_refused_at_save_and_nothing_is_written(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(PolicyError, match=message):
        dataclasses.replace(toy(), **change).save(tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_too_large_a_spec_is_refused_at_save(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"too large.*belongs in a tensor field"):
        ToyPolicy(steps=1, name="x" * 2**24).save(tmp_path / "p")
    assert not (tmp_path / "p").exists()


# ---- kinds


def test_a_second_class_for_a_kind_is_refused_and_the_same_class_is_not() -> None:
    register_policy("toy")(ToyPolicy)
    with pytest.raises(ValueError, match=r"kind='toy': already means tests.golden.toys:ToyPolicy"):
        register_policy("toy")(PlainPolicy)
    with pytest.raises(ValueError, match=r"kind='swift': already means tamis.samplers.swift.sampler:SwiftPolicy"):
        register_policy("swift")(ToyPolicy)
    with pytest.raises(ValueError, match="kind='Toy!': must be lower-case"):
        register_policy("Toy!")


@dataclass(frozen=True, kw_only=True)
class ListPolicy(Policy):
    items: list[int]


def test_a_class_that_cannot_be_stored_is_refused_at_registration() -> None:
    with pytest.raises(TypeError, match=r"ListPolicy.items: list\[int\]: a policy field must be annotated"):
        register_policy("list_policy")(ListPolicy)

    class Bare(Policy):
        pass

    with pytest.raises(TypeError, match="must derive from Policy and be decorated @dataclass"):
        register_policy("bare")(Bare)
    with pytest.raises(PolicyError, match=r"decorate the class with @register_policy"):
        ListPolicy(items=[]).save("nowhere")


def test_a_class_loads_its_own_kind_only(tmp_path: Path) -> None:
    toy().save(tmp_path)
    assert ToyPolicy.load(tmp_path) == toy()
    assert Policy.load(tmp_path) == toy()
    with pytest.raises(PolicyError, match=r"kind='toy': PlainPolicy.load reads 'toy_plain'; use tamis.load_policy"):
        PlainPolicy.load(tmp_path)


def test_an_unknown_kind_names_those_that_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy().save(tmp_path)
    monkeypatch.delitem(policy_module._registry, "toy")
    with pytest.raises(PolicyError, match=r"kind='toy': must be one of .*pruning_plan, swift.*import the module"):
        tamis.load_policy(tmp_path)


def test_tamis_own_kinds_are_imported_at_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain().save(tmp_path)
    monkeypatch.setitem(policy_module._registry, "toy", ToyPolicy)  # put back afterwards
    monkeypatch.delitem(policy_module._registry, "toy_plain")
    monkeypatch.setitem(policy_module._BUILTIN, "toy_plain", "tamis.no_such_module:PlainPolicy")
    with pytest.raises(PolicyError, match=r"kind='toy_plain': tamis.no_such_module cannot be imported"):
        tamis.load_policy(tmp_path)
    monkeypatch.setitem(policy_module._BUILTIN, "toy_plain", "tests.golden.toys:PlainPolicy")
    monkeypatch.delitem(sys.modules, "tests.golden.toys")
    loaded = tamis.load_policy(tmp_path)
    assert (loaded.kind, loaded.magnitudes) == ("toy_plain", plain().magnitudes)


def test_the_kind_that_the_documentation_registers_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "@register_policy" in block)
    names: dict[str, Any] = {"__name__": "documentation"}
    monkeypatch.setattr(policy_module, "_registry", dict(policy_module._registry))  # what the page registers ends here
    exec(compile(code, "policies.md", "exec", dont_inherit=True), names)  # noqa: S102
    policy = names["Thresholds"](share=0.5, per_class={"cat": torch.ones(2)})
    policy.save(tmp_path)
    assert tamis.load_policy(tmp_path) == policy
    with pytest.raises(ValueError, match=r"share=2: must be in"):
        names["Thresholds"](share=2, per_class={})


# ---- check, summary, plot


class Sized:
    def __init__(self, n: int, classes: list[str] | None = None) -> None:
        self.n, self.classes = n, classes

    def __len__(self) -> int:
        return self.n


def test_check_compares_what_both_sides_know() -> None:
    assert toy().check(data=Sized(10, ["cat", "dog"])) == ("classes", "n")
    assert toy().check(data=DataInfo(fingerprint="sha256:00")) == ("fingerprint",)
    assert dataclasses.replace(toy(), data=None).check(data=Sized(3)) == ()
    assert toy().check(data=iter(())) == ()


def test_check_without_a_keyword_goes_on_working_and_says_what_to_write() -> None:
    with pytest.warns(FutureWarning, match=r"write check\(data=x\)") as caught:
        assert toy().check(Sized(10)) == ("n",)
    assert caught[0].filename == __file__
    with pytest.raises(TypeError, match=r"write check\(data=...\)"):
        toy().check()


def test_check_reads_class_labels_of_the_datasets_library() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"x": datasets.Value("int64"), "y": datasets.ClassLabel(names=["cat", "dog"])})
    rows = datasets.Dataset.from_dict({"x": range(10), "y": [0, 1] * 5}, features=features)
    assert toy().check(data=rows) == ("classes", "n")
    with pytest.raises(PolicyError, match="n=4: the policy was searched on n=10"):
        toy().check(data=rows.select(range(4)))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (DataInfo(classes=("cat", "cow")), r"the data lacks \['dog'\] and has \['cow'\] besides"),
        (DataInfo(classes=("dog", "cat")), "the same names in another order"),
        (DataInfo(n=11), "n=11: the policy was searched on n=10"),
        (DataInfo(fingerprint="sha256:11"), "fingerprint=sha256:11"),
    ],
)
def test_check_names_what_differs(found: DataInfo, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        toy().check(data=found)


def test_data_info_refuses_nonsense() -> None:
    for wrong, message in (
        ({"n": -1}, "n=-1"),
        ({"classes": ("a", "a")}, "same name"),
        ({"fingerprint": "x"}, "sha256:"),
    ):
        with pytest.raises(ValueError, match=message):
            DataInfo(**wrong)


def test_summary_names_every_field() -> None:
    lines = toy().summary()
    for word in (
        "toy policy (schema 1)",
        "score 0.75",
        "trials 20",
        "10 samples",
        "steps: 3",
        "kept.emb.user: int64 [3]",
    ):
        assert word in lines
    assert "schema 2" in plain().summary()


def test_facts_are_data_and_diff_names_those_that_differ() -> None:
    facts = toy().facts()
    assert facts.as_dict()["search"] == {"trials": 20}
    assert facts.as_dict()["kept.emb.user"] == tamis.fingerprint(toy().kept["emb.user"])
    assert str(facts) == toy().summary()
    assert toy().diff(toy()) == "the two policies say the same"
    other = dataclasses.replace(toy(), steps=4, weights=toy().weights + 1, search=None)
    names = [line.partition(":")[0] for line in toy().diff(other).splitlines()]
    assert names == ["steps", "weights", "search"]
    with pytest.raises(PolicyError, match="must be a policy of this kind, got 'toy_plain'"):
        toy().diff(plain())


def test_plot_draws_the_tensors_into_a_file(tmp_path: Path) -> None:
    figure = toy().plot(tmp_path / "toy.png")
    assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")
    assert [line.get_label() for line in figure.axes[0].lines] == ["kept.emb.item", "kept.emb.user", "weights"]
    with pytest.raises(PolicyError, match=r"toy_plain.plot: this kind has nothing to draw"):
        plain().plot()


def test_plot_without_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'tamis\[plot\]'"):
        toy().plot()


# ---- fingerprint


def test_fingerprint_tells_contents_types_and_boundaries_apart() -> None:
    array = np.arange(6, dtype=np.int32)
    parts = [
        (array,), (array.reshape(2, 3),), (array.astype(np.int64),), (array[::-1],), (array, array), (array.tolist(),),
        (["ab", "c"],), (["a", "bc"],), ("abc",), ([], []), ([[], []],), (),
        (None,), (True,), (1,), (1.0,), ({"a": 1},),
    ]  # fmt: skip
    prints = [tamis.fingerprint(*part) for part in parts]
    assert len(set(prints)) == len(parts)
    assert all(len(value) == len("sha256:") + 64 for value in prints)


def test_fingerprint_is_the_same_for_equal_arrays_and_tensors() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    same_values = [torch.from_numpy(array), array.T.copy().T, array.astype(">f4"), np.asfortranarray(array)]
    assert {tamis.fingerprint(value) for value in same_values} == {tamis.fingerprint(array)}
    assert tamis.fingerprint({"b": 1, "a": 2}) == tamis.fingerprint({"a": 2, "b": 1})
    assert tamis.fingerprint(torch.ones(2, dtype=torch.bfloat16)) != tamis.fingerprint(torch.ones(2))
    assert tamis.fingerprint(np.array(["a", "b"])) == tamis.fingerprint(np.array(["a", "b"]))


def test_fingerprint_refuses_what_has_no_bytes() -> None:
    for part in (object(), np.array([object()]), {1, 2}):
        with pytest.raises(TypeError, match="fingerprint"):
            tamis.fingerprint(part)
