"""Every example runs as a user would start it, at a small size.

Those of one process run in this one: importing Trainer takes longer than most of them.
"""

import os
import runpy
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
TWO_PROCESSES = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]

RUNS = {
    "label_aware_trainer.py": ([], ["--epochs", "2"], "label-aware with Trainer: test accuracy"),
    "label_aware_accelerate.py": (TWO_PROCESSES, ["--epochs", "1"], "2 processes: label-aware"),
    "label_aware_plain_loop.py": ([], ["--epochs", "2"], "label-aware: test accuracy"),
    "curriculum_trainer.py": ([], ["--samples", "160", "--epochs", "1", "--steps", "60"], "takes one of 16 candidates"),
    "curriculum_accelerate.py": (
        TWO_PROCESSES,
        ["--samples", "600", "--epochs", "2", "--steps", "150"],
        "on 2 processes",
    ),
    "curriculum_plain_loop.py": ([], ["--samples", "300", "--steps", "80", "--pretrain", "60"], "least wanted: "),
    "frames_trainer.py": ([], ["--clips", "18", "--epochs", "1"], "chosen frames of 40"),
    "frames_accelerate.py": (TWO_PROCESSES, ["--clips", "18", "--epochs", "1", "--cpu"], "2 processes; test accuracy"),
    "frames_plain_loop.py": ([], ["--clips", "18", "--epochs", "1"], "1 videos skipped"),
    "dimreg_trainer.py": ([], ["--epochs", "1"], "embedding parameters"),
    "dimreg_accelerate.py": (TWO_PROCESSES, ["--epochs", "1", "--cpu"], "of the bytes left"),
    "dimreg_plain_loop.py": ([], ["--epochs", "1"], "test loss"),
    "dnis_trainer.py": ([], ["--epochs", "1"], "alpha after"),
    "dnis_accelerate.py": (TWO_PROCESSES, ["--epochs", "1", "--cpu"], "2 processes"),
    "dnis_plain_loop.py": ([], ["--epochs", "1"], "test loss"),
    "pruners_trainer.py": ([], ["--epochs", "1", "--pruner", "SSEDS"], "SSEDS: test loss"),
    "swift_trainer.py": ([], ["--trials", "2"], "Swift Sampler: clean test accuracy"),
    "swift_accelerate.py": (
        TWO_PROCESSES,
        ["--trials", "2", "--cpu"],
        "2 processes; resumed equals",
    ),
    "swift_plain_loop.py": ([], ["--trials", "2"], "clean test accuracy"),
}


def run_processes(script, options, folder):
    """What ``torchrun --nproc_per_node 2 script options`` prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    command = [sys.executable, *TWO_PROCESSES, str(EXAMPLES / script), *options]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """A function that does what ``python script options`` does, and returns what was printed.

    Its argv, path, folder, environment, torch generator and modules beside it are the script's own.
    """

    def run_here(script, options):
        monkeypatch.setattr(sys, "argv", [str(EXAMPLES / script), *options])
        monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
        monkeypatch.chdir(tmp_path)
        before, status = set(threading.enumerate()), None
        with mock.patch.dict(os.environ), torch.random.fork_rng():
            torch.random.default_generator.manual_seed(0)
            try:
                runpy.run_path(str(EXAMPLES / script), run_name="__main__")
            except SystemExit as end:
                status = end.code
            finally:
                for path in EXAMPLES.glob("*.py"):
                    sys.modules.pop(path.stem, None)
        assert not status, status
        left = [thread.name for thread in set(threading.enumerate()) - before if not thread.daemon]
        assert not left, f"{script} would not have ended: {left}"
        return capsys.readouterr().out

    return run_here


@pytest.mark.filterwarnings(
    "ignore::tamis.NoEffectWarning",  # two trials
    "ignore:.*training samples are validation samples too",  # toy sentences repeat themselves
)
@pytest.mark.parametrize("script", RUNS)
def test_example(script, tmp_path, run):
    launcher, options, words = RUNS[script]
    options = [*options, "--out", str(tmp_path / "out")]
    printed = run_processes(script, options, tmp_path) if launcher else run(script, options)
    assert words in printed
    assert "uninterrupted: False" not in printed


def test_every_example_is_run_and_short():
    helpers = {"ctr_models.py", "digit_images.py", "tabular.py", "report.py", "demo_dimreg.py", "video_clips.py"}
    scripts = {path.name for path in EXAMPLES.glob("*.py")} - helpers
    assert scripts == set(RUNS)
    assert not [name for name in scripts if len((EXAMPLES / name).read_text().splitlines()) > 120]


def test_demo_writes_its_report(tmp_path, run):
    printed = run("demo_dimreg.py", ["--epochs", "1", "--out", str(tmp_path / "demo")])
    assert "test AUC" in printed
    page = (tmp_path / "demo" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert {path.name for path in (tmp_path / "demo").glob("*.png")} == {
        "gates.png", "dimensions.png", "auc_against_parameters.png"
    }  # fmt: skip


def test_demo_on_the_users_own_table(tmp_path, run):
    table = tmp_path / "own.csv"
    rows = [f"u{i % 40},i{i % 33},{'yes' if (i * 7) % 11 > 5 else 'no'}" for i in range(1500)]
    table.write_text("user,item,bought\n" + "\n".join(rows))
    options = ["--data", str(table), "--label", "bought", "--epochs", "1", "--out", str(tmp_path / "demo")]
    assert "embedding parameters" in run("demo_dimreg.py", options)


@pytest.mark.parametrize(
    ("text", "label", "words"),
    [
        ("a,label\n1,0\n", "price", r"--label price: no such column; own.csv has a, label"),
        ("", "label", r"own.csv: cannot be read \(No columns"),
        ("a,label\n", "label", r"own.csv: must have rows, got none"),
        ("a,label\n1,0\n2,1\n3,2\n", "label", r"must have exactly two values, got 3: 0, 1, 2"),
        ("a,label\n1,0\n2,1\n3,\n", "label", r"1 of 3 labels are missing"),
        ("label\n" + "0\n1\n" * 20, "label", r"must have at least one column besides the label"),
        ("a,label\n1,0\n2,0\n3,1\n", "label", r"must hold both labels"),
    ],
)
def test_a_table_that_cannot_be_used_is_told_why(text, label, words, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    from tabular import load_table

    (tmp_path / "own.csv").write_text(text)
    with pytest.raises(SystemExit, match=words):
        load_table(tmp_path / "own.csv", label)
