"""Pages from plain dicts and arrays: whole, escaped, fetching nothing, saying what is missing."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from rlsyn_jax.report.privacy_page import ShownPair, privacy_page
from rlsyn_jax.report.ranking_page import ShownRanking, ranking_page
from rlsyn_jax.report.verification_page import verification_page

NASTY = '"><script>alert(1)</script>'


class Page(HTMLParser):
    """Collects tags and text, and proves that every tag that opens is closed."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(html)
        self.close()
        assert self.open == [] and html.startswith("<!doctype html>")
        assert not re.search(
            r"(https?|file|ftp):|//|@import|url\(", re.sub('src="data:[^"]*"', "", html)
        )
        for tag, attributes in self.tags:
            assert tag not in ("script", "link", "iframe", "a")
            assert attributes.get("src", "data:image/").startswith("data:image/")

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data.strip())

    def classes(self, name):
        return [tag for tag, attributes in self.tags if attributes.get("class") == name]

    @property
    def images(self):
        return [attributes["alt"] for tag, attributes in self.tags if tag == "img"]

    @property
    def text(self):
        return " ".join(word for word in self.words if word)


def image(number=None):
    return np.zeros((4, 3, 1) if number is None else (number, 4, 3, 1), np.uint8)


def test_arms_are_shown_with_intervals_and_verdicts():
    figure = {"value": 0.5, "low": 0.4321, "high": 0.6}
    metrics = {arm: {"mAP": figure, "rank-1": figure} for arm in ("real", "a < b")} | {
        "differences": {
            "a < b": {
                "mAP": {"value": 0.031, "low": 0.0123, "high": 0.05},
                "rank-1": {"value": -0.02, "low": -0.03, "high": -0.01},
            }
        }
    }
    shown = ShownRanking(image(), image(2), [True, False], NASTY)
    cmc = {"real": [0.5, 1], "a < b": [0.5, 1]}
    html = ranking_page(metrics, cmc, [(NASTY, [shown, shown])], subtitle=NASTY)
    page = Page(html)
    assert "real 50.00 43.21 to 60.00" in page.text and page.text.count(NASTY) == 4
    assert "a < b less real +3.10 +1.23 to +5.00 −2.00 −3.00 to −1.00" in page.text
    assert page.classes("good") == page.classes("bad") == ["small"]
    assert page.images == ["CMC curves"] + [f"query and ranking, {NASTY}"] * 2
    alone = Page(ranking_page({"real": metrics["real"], "differences": {}}, {"real": [0.5]}))
    assert "less" not in alone.text and "Not shown" in alone.text
    assert alone.images == ["CMC curves"]


def spread(**more):
    return {
        "accuracies": {"Asian": 0.9123, NASTY: 0.8},
        "mean": 0.8561,
        "std": 0.07,
        "gap": 0.11,
        "skewed_error_ratio": None,
        "gini": 0.1234,
        **more,
    }


def test_rates_that_are_not_measured_and_groups_are_shown():
    metrics = {
        "num_genuine": 1200,
        "num_impostors": 1300,
        "accuracy": {"value": 0.9, "low": 0.88, "high": 0.92, "std": 0.01},
        "equal_error_rate": {"value": 0.0789},
        "true_accept_rates": {"0.01": {"value": 0.7, "low": 0.65, "high": 0.75}, "1e-05": None},
    }
    page = Page(verification_page(metrics, [0.01, 0.1, 1], [0.7, 0.9, 1]))
    for words in (
        "1,200 pairs of one person and 1,300 of two",
        "ten-fold accuracy 90.00 88.00 to 92.00",
        "equal error rate 7.89",
        "TAR at FAR 0.01 70.00 65.00 to 75.00",
        "TAR at FAR 1e-05 not measured",
        "less than one of the pairs of two people",
    ):
        assert words in page.text
    assert page.images == ["ROC curve"] and "Groups" not in page.text
    rates = {"Asian": 0.05, NASTY: 0.15}
    metrics["fairness"] = {
        "own_threshold": spread(),
        "shared_threshold": spread(
            skewed_error_ratio=2.5, false_accept_rates=rates, false_reject_rates=rates
        ),
    }
    page = Page(verification_page(metrics, [0.01, 0.1, 1], [0.7, 0.9, 1]))
    assert len(page.images) == 2
    assert "Asian 91.23 91.23 5.00 5.00" in page.text and f"{NASTY} 80.00" in page.text
    assert "own threshold 85.61 7.00 11.00 infinite 0.123" in page.text
    assert "shared threshold 85.61 7.00 11.00 2.50 0.123" in page.text


def figure(mean, low=0.0, high=1.0):
    return {"mean": mean, "low": low, "high": high}


@pytest.mark.parametrize(
    ("low", "said"), [(0.06, "More images than that are nearer in pixels"), (0.0, "No space shows")]
)
def test_privacy_is_told_in_words_tables_and_pairs(low, said):
    copies = {
        "share": figure(0.2, low),
        "expected_share": 0.05,
        "threshold": 0.1,
        "num_near_copies": 7,
        "closest": [{"distance": 0.01}],
    }
    parts = {part: figure(0.25) for part in ("rate", "chance", "corrected")}
    metrics = {
        "memorisation": {
            "embeddings": {"synthetic": copies | {"share": figure(0.2)}},
            "pixels": {"synthetic": copies},
        },
        "identity_leakage": {
            "0.0001": {"not_measured": "too few pairs"},
            "0.001": {"held_out": {"own": parts, "other": parts}},
        },
        "extraction": {
            "synthetic": {
                "share": figure(0.01), "chance": None, "num_groups": 4, "num_samples": 90,
            }
        },
    }  # fmt: skip
    pairs = [ShownPair(image(), image(), NASTY, True), ShownPair(image(), image(), "far", False)]
    distances = {"held out": np.array([0.1, 0.2]), "synthetic": np.array([0.05])}
    page = Page(privacy_page(metrics, distances, [("Closest", pairs)]))
    assert said in page.text and NASTY in page.text
    assert "pixels, synthetic images 20.0" in page.text and " 7 0.100 0.010 " in page.text
    assert "1 in 1,000, other real images of them 25.0 0.0 to 100.0" in page.text
    assert "1 in 10,000 not measured: too few pairs" in page.text
    assert len(page.images) == 3 and page.classes("near") == ["figure"]
    missing = {name: {"not_measured": f"no {name}"} for name in metrics}
    page = Page(privacy_page(missing, {}))
    assert page.images == []
    for name in missing:
        assert f"Not measured: no {name}." in page.text
