from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import tamis
from tamis import DataInfo
from tamis.cli import demo as demo_command
from tamis.cli import main as cli
from tamis.cli import search as search_command
from tamis.core.checks import check_int
from tests.golden.toys import PlainPolicy, replace, toy
from tests.unit.curriculum_models import tiny_classifier


def search_toy(objective: Callable[[float], float], *, trials: int, out: Path, low: float = 0.0) -> PlainPolicy:
    """A search as `tamis search` expects it."""
    check_int("trials", trials, low=1)
    best = max((objective(low + i), low + i) for i in range(trials))
    policy = PlainPolicy(magnitudes=(best[1],))
    policy.save(out)
    return policy


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*words: Any) -> tuple[int, str, str]:
        status = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def refused(run: Run, *words: Any) -> str:
    """The one line of an error of the user's making."""
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert err.startswith("tamis: error: ")
    assert err.count("\n") == 1
    return err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    toy().save(tmp_path / "p")
    return tmp_path / "p"


# ---- show


def test_show_says_what_the_policy_says_and_draws_it(run: Run, folder: Path, tmp_path: Path) -> None:
    status, out, _ = run("show", folder, "--plot", tmp_path / "p.png")
    assert status == 0
    assert toy().summary() in out
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_show_of_a_damaged_or_absent_policy_is_one_line(run: Run, folder: Path, tmp_path: Path) -> None:
    (folder / "policy.json").write_text("{")
    assert "not readable as JSON" in refused(run, "show", folder)
    assert "no such file" in refused(run, "show", tmp_path / "absent")


def test_an_unknown_picture_format_and_a_missing_extra_are_one_line(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--plot no/p.png: cannot be drawn" in run("show", folder, "--plot", "no/p.png")[2]
    assert "p.xyz: cannot be drawn" in run("show", folder, "--plot", "p.xyz")[2]
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, _, err = run("show", folder, "--plot", "p.png")
    assert status == 2
    assert err == "tamis: error: plot: needs matplotlib; pip install 'tamis[plot]'\n"


# ---- check


def test_check_compares_size_classes_and_fingerprint(run: Run, tmp_path: Path) -> None:
    array = np.arange(10, dtype=np.float32)
    np.save(tmp_path / "x.npy", array)
    data = DataInfo(n=10, classes=("cat", "dog"), fingerprint=tamis.fingerprint(array))
    replace(toy(), data=data).save(tmp_path / "p")
    (tmp_path / "x.csv").write_text("a,y\n" + "1,dog\n2,cat\n" * 5)
    for words, agreed in (
        (("--data", tmp_path / "x.npy"), "n, fingerprint; not compared: classes"),
        (("--data", tmp_path / "x.npy", "--classes", "cat, dog"), "classes, n, fingerprint"),
        (("--data", tmp_path / "x.csv"), "n; not compared: classes, fingerprint"),
        (("--data", tmp_path / "x.csv", "--label", "y"), "classes, n; not compared: fingerprint"),
        (("--classes", "cat,dog"), "classes; not compared: fingerprint, n"),
    ):
        status, out, _ = run("check", tmp_path / "p", *words)
        assert status == 0
        assert out.endswith(f"fits in: {agreed}\n")


def test_check_reads_parquet(run: Run, folder: Path, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.DataFrame({"y": ["dog", "cat"] * 5}).to_parquet(tmp_path / "x.parquet")
    assert "fits in: classes, n" in run("check", folder, "--data", tmp_path / "x.parquet", "--label", "y")[1]
    assert "no such column; the table has y" in refused(
        run, "check", folder, "--data", tmp_path / "x.parquet", "--label", "z"
    )


def test_check_says_what_differs_or_cannot_be_compared(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("y\ncow\ncat\n")
    (tmp_path / "bad.npy").write_bytes(b"no array")
    (tmp_path / "x.txt").write_text("")
    replace(toy(), data=None).save(tmp_path / "bare")
    for words, message in (
        ((folder, "--data", tmp_path / "x.csv", "--label", "y"), "the data lacks ['dog'] and has ['cow'] besides"),
        ((folder, "--data", tmp_path / "x.csv"), "n=2: the policy was searched on n=10"),
        ((folder, "--data", tmp_path / "x.csv", "--label", "z"), "--label z: no such column; the table has y"),
        ((folder, "--data", tmp_path / "absent.csv"), "cannot be read"),
        ((folder, "--data", tmp_path / "bad.npy"), "cannot be read"),
        ((folder, "--data", tmp_path / "x.txt"), "must end in .csv, .parquet or (without --label) .npy"),
        ((folder, "--label", "y"), "--label: needs --data"),
        ((folder,), "nothing to compare: the policy records classes, fingerprint, n, the data gives none"),
        ((tmp_path / "bare", "--classes", "a,b"), "nothing to compare: the policy records none"),
    ):
        assert message in refused(run, "check", *words)


# ---- search


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    monkeypatch.setitem(search_command.SEARCHES, "toy_plain", f"{__name__}:search_toy")
    monkeypatch.delitem(sys.modules, "my_objective", raising=False)
    (tmp_path / "my_objective.py").write_text(
        "def near_three(x):\n    return -abs(x - 3)\n\ndef broken(x):\n    raise ValueError('mine')\n\nnumber = 3\n"
    )

    def write(text: str) -> Path:
        (tmp_path / "search.toml").write_text(text)
        return tmp_path / "search.toml"

    return write


def test_search_runs_the_users_objective_and_saves_the_policy(
    run: Run, config: Callable[[str], Path], tmp_path: Path
) -> None:
    path = config('[search]\nobjective = "my_objective:near_three"\ntrials = 5\nlow = 1.0\n')
    status, out, _ = run("search", "toy_plain", "--config", path, "--out", tmp_path / "found")
    assert status == 0
    assert out.startswith("toy_plain policy")
    assert out.splitlines()[-1] == f"policy in {tmp_path}/found: tamis.load_policy('{tmp_path}/found')"
    assert tamis.load_policy(tmp_path / "found") == PlainPolicy(magnitudes=(3.0,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[search", "cannot be read as TOML"),
        ("trials = 1", "must have one table, [search], got trials"),
        ("[search]\ntrials = 1", "missing option 'objective'; allowed: low, objective, trials"),
        ('[search]\nobjective = "my_objective:near_three"', "missing option 'trials'"),
        (
            '[search]\nobjective = "x:y"\ntrials = 1\nsteps = 2',
            "unknown option 'steps'; allowed: low, objective, trials",
        ),
        ('[search]\nobjective = "x:y"\ntrials = 1\nout = "z"', "unknown option 'out'"),
        ('[search]\nobjective = "no_such_module:y"\ntrials = 1', "must name a function as 'package.module:function'"),
        ('[search]\nobjective = "my_objective:absent"\ntrials = 1', "has no attribute 'absent'"),
        ('[search]\nobjective = "my_objective:number"\ntrials = 1', "number is not callable"),
        ('[search]\nobjective = "my_objective"\ntrials = 1', "must name a function as"),
        ("[search]\nobjective = 3\ntrials = 1", "objective=3: must name a function as"),
        (
            '[search]\nobjective = "my_objective:near_three"\ntrials = "my_objective:near_three"',
            "without arguments that returns the trials (missing a required argument: 'x'); to pass a function itself, "
            "return it: def trials(): return near_three",
        ),
        ('[search]\nobjective = "my_objective:near_three"\ntrials = -1', "trials=-1: must be >= 1"),
        ('[search]\nobjective = "my_objective:near_three"\ntrials = 0.5', "trials=0.5: must be an int"),
    ],
)
def test_a_wrong_config_is_one_line(
    text: str, message: str, run: Run, config: Callable[[str], Path], tmp_path: Path
) -> None:
    words = ("search", "toy_plain", "--config", config(text), "--out", tmp_path / "found")
    assert message in refused(run, *words)
    assert not (tmp_path / "found").exists()


def test_an_unknown_kind_of_search_lists_those_there_are(run: Run, tmp_path: Path) -> None:
    message = refused(run, "search", "nothing", "--config", tmp_path / "x.toml", "--out", tmp_path / "y")
    assert "KIND='nothing': cannot be searched from the shell; available: " in message


def test_an_error_in_the_users_objective_keeps_its_traceback(
    run: Run, config: Callable[[str], Path], tmp_path: Path
) -> None:
    path = config('[search]\nobjective = "my_objective:broken"\ntrials = 1\n')
    with pytest.raises(ValueError, match="mine"):
        run("search", "toy_plain", "--config", path, "--out", tmp_path / "found")


def job(folder: Path, kind: str, module: str, options: str, out: str = "found") -> list[str]:
    """The words of a search whose module and search.toml are written into ``folder``."""
    (folder / f"{kind}_job.py").write_text(module)
    (folder / "search.toml").write_text(f"[search]\n{options}\n")
    return ["search", kind, "--config", str(folder / "search.toml"), "--out", str(folder / out)]


def test_swift_is_searched_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = (
        "import torch\n"
        "from tamis.samplers import FeatureTable\n"
        "def features():\n"
        "    loss = torch.linspace(0, 1, 40, dtype=torch.float64)\n"
        "    return FeatureTable({'loss': loss, 'gradient': loss + 0.1})\n"
        "def fit(sampler):\n"
        "    drawn = torch.tensor(list(sampler))\n"
        "    return -float(drawn.double().mean())\n"
    )
    options = 'objective = "swift_job:fit"\nfeatures = "swift_job:features"\ntrials = 3\noptimizer = "random"'
    assert cli.main(job(tmp_path, "swift", module, options)) == 0
    found = capsys.readouterr().out
    assert "uniform sampling scored " in found
    assert cli.main(["show", str(tmp_path / "found")]) == 0
    assert found.startswith(capsys.readouterr().out)
    assert "loss" in found


@pytest.mark.filterwarnings("ignore:.*not above 0:tamis.NoEffectWarning")  # thirty steps of an agent on ten samples
def test_curriculum_is_searched_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = (
        "from tamis.samplers import curriculum_features\n"
        "from tamis.search import UpdateConfig\n"
        "from tamis.search import AgentConfig\n"
        "from tests.unit.curriculum_models import tiny_classifier\n"
        "network, items = tiny_classifier()\n"
        "def model():\n"
        "    return network\n"
        "def train():\n"
        "    return items[:40]\n"
        "def validation():\n"
        "    return items[40:]\n"
        "def features():\n"
        "    labels = {'y': [y for _, y in items[:40]]}\n"
        "    return curriculum_features(labels, columns=['y'], model=network, items=train())\n"
        "def agent():\n"
        "    return AgentConfig(steps=30, warm_up=10, hidden=(8, 8))\n"
        "def update():\n"
        "    return UpdateConfig(batch_size=8, lr=1e-3, eval_every=2, max_updates=24)\n"
        "def no_update():\n"
        "    return None\n"
    )
    names = ("model", "train", "validation", "features", "agent")
    lines = [f'{name} = "curriculum_job:{name}"' for name in names] + [
        "rounds = [4]",
        "probes = 0",
        'reward = "first_order"',
    ]

    def command(update: str) -> list[str]:
        options = "\n".join([*lines, f'update = "curriculum_job:{update}"'])
        return job(tmp_path, "curriculum", module, options, update)

    assert cli.main(command("no_update")) == 0
    out = capsys.readouterr().out
    assert "takes one of 4 candidates by 3 features" in out
    assert "weights" not in out
    assert cli.main(command("no_update")) == 0  # goes on from the folder: nothing left to do
    assert cli.main(["show", str(tmp_path / "no_update")]) == 0

    assert cli.main(command("update")) == 0
    folder, last = tmp_path / "update", capsys.readouterr().out.splitlines()[-2:]
    assert last[0] == f"policy in {folder}: tamis.load_policy('{folder}')"
    weights = f"{folder}/model.safetensors"
    assert last[1] == f"trained weights in {weights}: safetensors.torch.load_model(model, '{weights}')"
    trained, fresh = importlib.import_module("curriculum_job").network, tiny_classifier()[0]
    assert not torch.equal(next(trained.parameters()), next(fresh.parameters()))
    safetensors.torch.load_model(fresh, weights)
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), fresh.parameters(), strict=True))


def test_frames_are_searched_from_the_shell(run: Run, tmp_path: Path) -> None:
    module = (
        "import numpy as np\n"
        "from tamis.search.frames.search import MapConfig\n"
        "rng = np.random.default_rng(0)\n"
        "def videos():\n"
        "    return [rng.standard_normal((10, 4)) for _ in range(12)]\n"
        "def labels():\n"
        "    return [i % 2 for i in range(12)]\n"
        "def names():\n"
        "    return ['ab'[i % 2] for i in range(12)]\n"
        "def map_config():\n"
        "    return MapConfig(width=4, epochs=1)\n"
    )
    names = ("videos", "labels", "map_config")
    lines = [f'{name} = "frames_job:{name}"' for name in names] + ["num_frames = 3", "folds = 2", "budget = 100"]
    words = job(tmp_path, "frames", module, "\n".join(lines))
    status, found, _ = run(*words)
    assert status == 0
    assert found.startswith("Search-Map-Search: 3 frames of a clip")
    assert "too few unseen clips (1) to tell" in found
    policy = tamis.load_policy(tmp_path / "found")
    assert policy.summary() in found
    words = job(tmp_path, "frames", module, "\n".join(lines).replace("job:labels", "job:names"), "other")
    assert "labels[0]='a': must be an integer >= 0" in refused(run, *words)


def test_every_search_in_the_table_exists() -> None:
    for path in search_command.SEARCHES.values():
        assert callable(search_command.named(path))


# ---- demo


def test_demo_runs_the_example_of_the_method_with_its_options(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, status in (("dimreg", 0), ("swift", 1)):
        (tmp_path / f"demo_{name}.py").write_text(
            f"from beside_demo import word\ndef main(argv):\n    print(word, '{name}', argv)\n    return {status}\n"
        )
    (tmp_path / "beside_demo.py").write_text("word = 'demo'\n")
    (tmp_path / "x.csv").write_text("y\n1\n")
    monkeypatch.setattr(demo_command, "_examples", lambda: tmp_path)
    assert run("demo") == (0, "demo dimreg []\n", "")
    assert run("demo", "swift")[0] == 1
    words = ["--data", str(tmp_path / "x.csv"), "--label", "y", "--out", "here"]
    assert run("demo", "dimreg", *words)[1] == f"demo dimreg {words}\n"
    assert run("demo", "all")[:2] == (1, "demo dimreg []\ndemo swift []\n")
    assert "METHOD='other': has no demo; available: dimreg, swift" in refused(run, "demo", "other")
    assert "no such file" in refused(run, "demo", "--data", tmp_path / "absent.csv")


def test_a_demo_that_ends_with_words_is_one_line_and_one_that_ends_with_a_status_ends(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo_words.py").write_text("def main(argv):\n    raise SystemExit('own.csv: must have rows')\n")
    (tmp_path / "demo_status.py").write_text("def main(argv):\n    raise SystemExit(3)\n")
    monkeypatch.setattr(demo_command, "_examples", lambda: tmp_path)
    assert refused(run, "demo", "words") == "tamis: error: own.csv: must have rows\n"
    with pytest.raises(SystemExit) as caught:
        cli.main(["demo", "status"])
    assert caught.value.code == 3


def test_demos_are_found_in_the_checkout_or_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_command, "PACKAGE", tmp_path / "tamis")
    assert demo_command._examples() == tmp_path / "examples"
    (tmp_path / "tamis" / "_examples").mkdir(parents=True)
    assert demo_command._examples() == tmp_path / "tamis" / "_examples"


# ---- the command itself


def test_python_m_tamis_works(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tamis", "show", str(folder / "absent")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("tamis: error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words", [(), ("wrong",), ("show",), ("search", "x"), ("check", "x", "--label", "a", "--classes", "b")]
)
def test_a_wrong_command_line_exits_with_2(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert "usage: tamis" in capsys.readouterr().err
