"""What the report says of measured and of missing figures."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.stages.privacy_panel import privacy_panel
from rlsyn_jax.stages.recognition_panel import recognition_panel


def figure(mean, low=None, high=None):
    return {
        "mean": mean,
        "low": mean if low is None else low,
        "high": mean if high is None else high,
    }


def dataset(number):
    return IdentityDataset(
        name="two",
        images=np.random.default_rng(0).integers(0, 256, (number, 4, 4, 3)).astype(np.uint8),
        identities=(np.arange(number) % 2).astype(np.int32),
        cameras=np.zeros(number, np.int32),
        identity_names=("ann", "bob"),
        file_names=tuple(map(str, range(number))),
        has_cameras=False,
    )


PROTOCOL = {
    "held_out_queries": 4,
    "held_out_identities": 2,
    "closed_queries": 6,
    "train_identities": 2,
    "chance_closed_rank1": 0.5,
}


def test_a_smaller_error_is_better_and_a_smaller_rank_is_not():
    arms = {"real": {"open_map": figure(0.5), "equal_error_rate": figure(0.2)}}
    arms["synthetic_only"] = {"open_map": figure(0.4), "equal_error_rate": figure(0.1)}
    falls = figure(-0.1, -0.15, -0.05)
    results = {
        "arms": arms,
        "differences": {"synthetic_only": {"open_map": falls, "equal_error_rate": falls}},
        "not_measured": {"tar_at_far_1e-3": "too few pairs"},
        "protocol": PROTOCOL,
    }
    lists = [{"query": 1, "gallery": [3, 0], "right": [True, False]}]
    curves = {
        "cmc": {"real": [0.5, 1.0]},
        "roc": {},
        "rankings": {"arm": "real", "lists": lists},
    }
    panel = recognition_panel(results, curves, dataset(4))
    ranking, others = panel["arm_tables"]
    assert ranking["rows"][1]["cells"][0]["verdict"] == "bad"
    assert others["titles"] == ["equal error rate"]
    assert others["rows"][1]["cells"][0]["verdict"] == "good"
    assert panel["arm_notes"] == ["TAR at FAR 0.1 % is not measured: too few pairs."]
    assert panel["rankings"][0]["caption"] == "bob: 1 of 2 right"
    without = recognition_panel(results, {"cmc": {}, "roc": {}, "rankings": {}}, dataset(4))
    assert without["rankings"] == [] and len(without["arm_charts"]) == 1


def test_arms_that_start_otherwise_or_do_not_train_are_named():
    results = {
        "arms": {
            arm: {"open_map": figure(0.5)} for arm in ("real", "real_scratch", "real_general")
        },
        "differences": {},
        "not_measured": {},
        "protocol": PROTOCOL | {"random_start": ["real_scratch"]},
    }
    curves = {"cmc": {}, "roc": {}, "rankings": {}}
    text = recognition_panel(results, curves, dataset(4))["arms_text"]
    assert (
        "updates; “real, from scratch” from random ones; “start as it is, untrained” makes" in text
    )
    results["arms"], results["protocol"] = {"real": {"open_map": figure(0.5)}}, PROTOCOL
    text = recognition_panel(results, curves, dataset(4))["arms_text"]
    assert "number of updates. 4" in text and "no fair test" not in text
    results["protocol"] = PROTOCOL | {"closed_set_chose_iteration": True}
    assert "no fair test" in recognition_panel(results, curves, dataset(4))["arms_text"]


def memorised(share, low):
    closest = [{"file": "bob/1.png", "train_image": 2, "distance": 0.01}]
    closest.append({"file": "ann/0.png", "train_image": 0, "distance": 0.3})
    return {
        "share": figure(share, low, 0.9),
        "expected_share": 0.05,
        "threshold": 0.1,
        "num_near_copies": 1,
        "nearer_to_training": figure(0.6, 0.4 + low, 0.9),
        "closest": closest,
    }


@pytest.mark.parametrize(("low", "said"), [(0.2, "more images than that"), (0.0, "no space")])
def test_privacy_is_told_in_words_and_pairs(low, said):
    privacy = {
        "memorisation": {
            "pixels": {"reinforced": memorised(0.4, low)},
            "judge": {"not_measured": "too few held-out images"},
        },
        "identity_leakage": {
            "0.0001": {"not_measured": "too few pairs"},
            "0.001": {
                "reinforced": {
                    whom: {part: figure(0.25) for part in ("rate", "chance", "corrected")}
                    for whom in ("own", "other")
                }
            },
        },
        "membership": {"not_measured": "no image of the training people is held out"},
        "recognizer_membership": {
            arm: {
                "auc": figure(area, low, 0.9),
                "true_positive_rate": rate,
                "num_members": 6,
                "num_non_members": 4,
            }
            for arm, area, rate in (("real", 0.8, figure(0.3)), ("synthetic_only", 0.5, None))
        },
    }
    gate = {"near_copy_threshold": 0.05, "reinforced": {"near_copies_left_out": 3}}
    train = dataset(3).images
    made = dataset(2)
    sets = {"reinforced": (made, {"file": ["ann/0.png", "bob/1.png"]})}
    panel = privacy_panel(privacy, gate, sets, {"after RL": np.array([0.1, 0.2])}, train)
    assert "3 of the set" in panel["privacy_text"] and "by design" in panel["privacy_text"]
    copies, leakage, membership, recognizers = panel["privacy_tables"]
    assert said in copies["text"]
    assert ("clearly above 50 in pixels" in copies["text"]) == (low > 0)
    assert copies["rows"][1]["cells"][2]["value"] == "60.0"
    assert [row["title"] for row in copies["rows"]] == ["the judge", "pixels, after RL"]
    assert copies["rows"][0]["cells"][0]["value"] == "not measured: too few held-out images"
    assert [row["title"] for row in leakage["rows"]] == ["1 in 1,000, after RL", "1 in 10,000"]
    assert len(leakage["rows"][0]["cells"]) == len(leakage["titles"]) == 6
    assert membership["rows"] == [] and "Not measured: no image" in membership["text"]
    assert [row["title"] for row in recognizers["rows"]] == [
        "real only",
        "synthetic only, after RL",
    ]
    shown = [[cell["value"] for cell in row["cells"]] for row in recognizers["rows"]]
    assert shown == [["0.800", "30.0", "6 / 4"], ["0.500", "too few images", "6 / 4"]]
    assert "No recogniser gives that away" in recognizers["text"]
    gate["pixel_copy_threshold"] = 0.1234
    with_pixels = privacy_panel(privacy, gate, sets, {"after RL": np.array([0.1, 0.2])}, train)
    assert "by the judge, or than 0.1234 by pixels, were" in with_pixels["privacy_text"]
    assert "pixels say most" in copies["text"]
    assert "pixels say most" not in with_pixels["privacy_tables"][0]["text"]
    (group,) = panel["pair_groups"]
    assert [pair["near"] for pair in group["pairs"]] == [True, False]
    content = base64.b64decode(group["pairs"][0]["image"].split(",")[1])
    pair = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(pair, np.concatenate([made.images[1], train[2]]))
