"""Cells of a sweep: names, and the refusal of what cannot run, before anything does."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweeping.cells import SweepError, cell_names, changed_config, read_cells

ROOT = Path(__file__).parents[2]


def sweep_file(folder, body, base=None):
    base = base or "configs/quickstart.py:ci"
    path = folder / "my_sweep.py"
    path.write_text(f"BASE = {base!r}\n\ndef get_hyper(hyper):\n    return {body}\n")
    return path


def test_names_tell_the_fields_that_differ_by_as_little_of_their_paths_as_it_takes():
    cells = [
        {"adapt.steps": 4, "pretrain.steps": steps, "reinforce.eta": eta, "seed": 0}
        for steps, eta in [(5, 0.5), (6, 1e-5)]
    ]
    assert cell_names(cells) == ["steps=5,eta=0.5", "steps=6,eta=1e-05"]
    cells[1]["adapt.steps"] = 5
    assert cell_names(cells)[1] == "adapt.steps=5,pretrain.steps=6,eta=1e-05"


def test_names_leave_out_what_a_cell_does_not_change():
    cells = [{}, {"seed": 1}, {"recognize.arms": ("real", "real_erasing")}]
    assert cell_names(cells) == ["base", "seed=1", "arms=real+real_erasing"]


def test_values_that_read_alike_get_different_names():
    names = cell_names([{"data.path": "a b"}, {"data.path": "a/b"}, {"data.path": "c"}])
    assert names[0].startswith("path=a-b-") and names[1].startswith("path=a-b-")
    assert names[0] != names[1] and names[2] == "path=c"


TEXTS = st.text("ab_/ =,\nä", max_size=100)


def test_long_names_end_in_a_hash_that_tells_them_apart():
    first, second = cell_names([{"data.path": "a" * 90 + end} for end in "xy"])
    assert len(first) == len(second) == 80 and first[:71] == second[:71] == "path=" + "a" * 66
    assert first != second


VALUES = st.one_of(st.integers(), st.floats(allow_nan=False), TEXTS, st.booleans())
CELLS = st.lists(
    st.dictionaries(st.sampled_from(["a.x", "b.x", "c"]), VALUES, max_size=3), min_size=1
)


@given(CELLS)
def test_names_are_different_names_of_files_whatever_the_order(cells):
    cells = [cell for place, cell in enumerate(cells) if cell not in cells[:place]]
    names = cell_names(cells)
    assert len(set(names)) == len(cells)
    assert all(re.fullmatch(r"[0-9A-Za-z_.,=+-]{1,80}", name) for name in names)
    assert names[::-1] == cell_names([dict(reversed(cell.items())) for cell in reversed(cells)])


def test_equal_cells_are_refused():
    with pytest.raises(SweepError, match="cells 1 and 3 of the sweep are equal: {'seed': 0}"):
        cell_names([{"seed": 0}, {"seed": 1}, {"seed": 0}])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"adapt.stepz": 3}, "cell C: the config has no field 'adapt.stepz'"),
        ({"seed.number": 3}, "cell C: the config has no field 'seed.number'"),
        ({"adapt": 3}, "cell C: 'adapt' is a section"),
        ({"adapt.steps": "many"}, "cell C: config.adapt.steps is 'many'"),
        ({"fsdp": 0}, "cell C: config.fsdp is 0; it must be a whole number of at least 1"),
        ({"reinforce.eta": 0.0}, r"cell C: config.reinforce.eta is 0.0; it must be in \(0, 1\]"),
    ],
)
def test_a_cell_that_cannot_run_is_refused_with_its_field(program, changes, expected):
    with pytest.raises(SweepError, match=expected):
        changed_config(program.config(), changes, "C")


def test_lists_become_what_the_config_holds_and_the_base_stays_as_it_is(program):
    base = program.config()
    config = changed_config(base, {"recognize.arms": ["real"], "reinforce.eta": 1}, "C")
    assert config.recognize.arms == ("real",) and config.reinforce.eta == 1.0
    assert len(base.recognize.arms) == 6


def test_numbers_of_numpy_become_python_s(tmp_path):
    path = tmp_path / "sweep.py"
    base = ROOT / "configs" / "quickstart.py:ci"
    path.write_text(
        f"import numpy as np\nBASE = {str(base)!r}\n\n\ndef get_hyper(hyper):\n"
        "    return hyper.product([\n"
        "        hyper.sweep('reinforce.learning_rate', np.logspace(-3, -2, 2)),\n"
        "        hyper.sweep('seed', np.arange(2)),\n"
        "        hyper.fixed('recognize.decay_at', (np.float64(0.5),)),\n    ])\n"
    )
    _, cells = read_cells(path)
    assert len(cells) == 4
    for cell in cells:
        rate, seed, shares = (
            cell.changes[name] for name in sorted(cell.changes)[1:] + ["recognize.decay_at"]
        )
        assert type(rate) is float and type(seed) is int and type(shares[0]) is float


def test_a_sweep_file_gives_its_cells_in_order(tmp_path):
    path = sweep_file(tmp_path, 'hyper.sweep("adapt.steps", [7, 8])')
    base, cells = read_cells(path)
    assert base.startswith("/") and base.endswith("/configs/quickstart.py:ci")
    assert [(cell.name, cell.config.adapt.steps) for cell in cells] == [
        ("steps=7", 7),
        ("steps=8", 8),
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("BASE = 'configs/quickstart.py:ci'\n", "has no get_hyper"),
        ("def get_hyper(hyper):\n    return []\n", "has no BASE"),
        ("BASE = 'configs/quickstart.py:ci'\nget_hyper = lambda hyper: []\n", "gives no cell"),
        (
            "BASE = 'configs/quickstart.py:ci'\nget_hyper = lambda hyper: 3\n",
            "returns 3; expected a",
        ),
        (
            "BASE = 'configs/quickstart.py:ci'\nget_hyper = lambda hyper: ['seed']\n",
            r"returns \['seed'\]; expected a list of {field: value}",
        ),
        (
            "BASE = 'configs/quickstart.py:ci'\nget_hyper = lambda hyper: hyper.grids()\n",
            "sweep_file.py, line 2: AttributeError: .*has no attribute 'grids'",
        ),
        ("BASE = 3\nget_hyper = 3\n", "BASE must be a config file's path, and get_hyper a func"),
        ("import not_there\n", "sweep_file.py, line 1: ModuleNotFoundError: No module"),
        ("def get_hyper(:\n", "sweep_file.py, line 1: SyntaxError"),
        (
            "BASE = 'configs/quickstart.py:other'\nget_hyper = lambda hyper: []\n",
            "quickstart.py, line .*quickstart.py:other is not known",
        ),
        (
            "BASE = 'experiments/sweep.py'\nget_hyper = lambda hyper: []\n",
            "sweep.py defines no function get_config",
        ),
    ],
)
def test_a_sweep_file_that_lacks_something_is_refused(tmp_path, monkeypatch, content, expected):
    monkeypatch.chdir(ROOT)
    (tmp_path / "sweep_file.py").write_text(content)
    with pytest.raises(ValueError, match=expected):
        read_cells(tmp_path / "sweep_file.py")
