"""Where arms stand between what they gain and what they give away, from written values."""

import numpy as np
import pytest
from PIL import Image
from study import leakage
from study.design import MEASURES, TARGETS, Choice
from study.tables import leakage_chart
from study.variations import VARIATIONS

PEOPLE = [f"person {number}" for number in range(10)]


def run_of(shares, gain):
    """Returns what a run measured: near copies of each set, and gains of arms over real ones."""
    arms = {
        arm: {measure: {name: [0.4 + more] for name in PEOPLE} for measure in MEASURES}
        for arm, more in {"real_affine": 0.0, **gain}.items()
    }
    pixels = {name: {"share": {"mean": share}} for name, share in shares.items()}
    metrics = {"privacy": {"memorisation": {"pixels": pixels}}}
    weights = {measure: dict.fromkeys(PEOPLE, 1) for measure in MEASURES}
    return {"arms": arms, "weights": weights, "metrics": metrics}


def test_points_are_means_of_the_runs():
    gain = {"real_reinforced": 0.05, "real_cold_start": 0.02, "synthetic_only": -0.1}
    runs = [run_of({"reinforced": 0.2}, gain), run_of({"reinforced": 0.4}, gain)]
    # Near copies of the cold start were not counted, and synthetic_only adds to nothing.
    (found,) = leakage.arms_of(runs, "real_affine")
    assert found.label == "real_reinforced" and found.leaked == pytest.approx(30)
    for measure in MEASURES:
        assert found.gains[measure]["difference"] == pytest.approx(5)
    assert leakage.arms_of([], "real_affine") == []


def test_the_curve_goes_by_strength_and_leaves_out_what_has_not_run():
    varied = {
        1.0: [run_of({"reinforced": 0.1}, {"real_reinforced": 0.01})],
        0.85: [],
        0.5: [run_of({"reinforced": share}, {"real_reinforced": 0.03}) for share in (0.6, 0.4)],
    }
    near, far = leakage.curve_of(varied, "real_affine")
    assert (near.label, far.label) == ("0.5 (2)", "1 (1)")
    assert (near.leaked, far.leaked) == pytest.approx((50, 10))


def test_every_start_that_a_target_varies_is_on_its_curve():
    varied = {name for name in VARIATIONS if leakage.varies_strength(name)}
    assert varied == {f"strength {share}" for share in (0.5, 0.7, 0.85, 1.0)}
    assert varied - set(TARGETS["omniglot"].variations) == {"strength 0.85"}
    assert varied - set(TARGETS["lfw"].variations) == {"strength 1.0"}


def test_the_chart_is_drawn_and_shown(tmp_path, monkeypatch):
    class Written:
        def named(self, name):
            shares = {"2 images, random start": 0.2, "strength 0.7": 0.4, "strength 0.5": 0.6}
            longer = name.endswith(", longer training")
            share = shares.get(name.removesuffix(", longer training"))
            if not share or longer and name.startswith("strength"):
                return {}
            gain = {"real_reinforced": share / 10 + 0.04 * longer}
            return {0: run_of({"reinforced": share}, gain)}

    drawn = {}
    draw = leakage.draw

    def keep(*parts, **options):
        drawn.update(parts=parts, **options)
        draw(*parts, **options)

    monkeypatch.setattr(leakage, "draw", keep)
    choice = Choice("the default rate", "affine")
    charts: list = []
    lines = [*leakage_chart("omniglot", Written(), choice.baseline, tmp_path, charts)]
    assert not any(tmp_path.iterdir())
    for chart in charts:
        chart()
    assert lines[-1].endswith("(figures/gain_and_leakage_omniglot.png)")
    _, heading, _, arms, curve = drawn["parts"]
    assert heading == "omniglot, 2 images, random start: 1 seeds, longer training 1"
    assert [each.label for each in arms] == ["real_reinforced"]
    (longer,) = drawn["longer"]
    assert (longer.label, longer.leaked) == ("real_reinforced", pytest.approx(20))
    assert longer.gains["open_map"]["difference"] == pytest.approx(6)
    assert [each.label for each in curve] == ["0.5 (1)", "0.7 (1)", "0.85 (1)"]
    assert drawn["held_out"] == pytest.approx(5)
    image = np.asarray(Image.open(tmp_path / "figures/gain_and_leakage_omniglot.png"))
    assert image.shape[0] > 100 and image.std() > 1
