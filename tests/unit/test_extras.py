"""What is not installed is named with the extra that brings it; what needs nothing imports nothing."""

import subprocess
import sys

import pytest

WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""

PROPOSE = "import numpy as np; from tamis.optimizers.bayesian import propose; "


def run(code, absent=()):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(absent=set(absent) or {"-"}) + code], capture_output=True, text=True
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("absent", "extra", "code"),
    [
        (["scipy"], "search", f"{PROPOSE}propose('gp-ucb', [], 8, 2, seed=0)"),
        (["bayes_opt"], "search", f"{PROPOSE}propose('gp-ucb', [(np.zeros(2), 0.5)] * 9, 1, 2, seed=0)"),
        (["transformers"], "hf", "from tamis.callbacks import SamplerCallback"),
        (["matplotlib"], "plot", "from tamis.core.figures import blank_figure; blank_figure(1, 1)"),
        (
            ["pyarrow"],
            "text",
            "from tamis.features import curriculum_features as f; f({'t': ['a b', 'c']}, text=['t'])",
        ),
        (
            ["torchvision"],
            "vision",
            "import torch; from tamis.transforms.images.apply import apply_operations as f; "
            "from tamis.transforms.images.ops import Drawn; "
            "f(torch.zeros(3, 8, 8, dtype=torch.uint8), [Drawn(4, 9)])",
        ),
        (["pandas"], "demo", "from tamis.cli.main import main; raise SystemExit(main(['demo']))"),
    ],
)
def test_a_missing_extra_is_named(absent, extra, code):
    said = run(code, absent)
    assert f"tamis[{extra}]" in said, said[-2000:]


def test_help_loads_neither_torch_nor_numpy():
    code = "from tamis.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    said = run(code + "print(sorted({'torch', 'numpy'} & sys.modules.keys()))")
    assert said.splitlines()[-1] == "[]"
    assert "COMMAND" in said


def test_a_label_that_is_no_column_is_told_before_anything_is_loaded():
    code = "from tamis.cli.main import main\nprint(main(['demo', '--label', 'typo']))\nprint('torch' in sys.modules)"
    said = run(code)
    assert "tamis: error: --label typo: no such column; adult.parquet has " in said
    assert said.split("\n")[:2] == ["2", "False"]


def test_names_are_there_when_they_are_asked_for():
    code = "import tamis, tamis.core\nprint(tamis.Policy.__name__, tamis.pruners.DimReg.__name__, "
    code += "tamis.core.rank(), tamis.core.rng.__name__, 'load_policy' in dir(tamis))"
    assert run(code).split() == ["Policy", "DimReg", "0", "tamis.core.rng", "True"]
    assert "AttributeError: module 'tamis' has no attribute 'nothing'" in run("import tamis; tamis.nothing")
