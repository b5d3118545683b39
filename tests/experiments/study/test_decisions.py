"""The table of a study's comparisons, and the README's, which is that of what is on record."""

import json
from pathlib import Path

from study.claims import SEEDS_OF_A_CLAIM
from study.decisions import decisions_table

ROOT = Path(__file__).parents[3]


def comparison(name, images=2, seeds=5, **changes):
    found = {"name": name, "data": "omniglot", "images": images, "seeds": seeds}
    found |= {"difference": 4.26, "low": -0.24, "high": 8.0, "holds": False, "claimed": True}
    return [
        found | {"measure": "open_map"},
        found | {"measure": "closed_rank1"} | changes,
    ]


def test_rows_are_by_images_and_claims_that_hold_are_bold():
    found = [
        *comparison("reinforced against cold start", images="all"),
        *comparison("reinforced against best of N", holds=True),
        *comparison("reinforced against cold start", holds=True, claimed=False),
        *comparison("reinforced against cold start", images=1, seeds=2),
    ]
    text = "+4.3 (-0.2 to 8.0)"
    rows = [*decisions_table(found)][2:]
    assert rows == [
        f"| omniglot, 1 | reinforced against cold start | 2 | {text} | {text} |",
        f"| omniglot, 2 | reinforced against cold start | 5 | {text} | {text} |",
        f"| omniglot, 2 | reinforced against best of N | 5 | {text} | **{text}** |",
        f"| omniglot, all | reinforced against cold start | 5 | {text} | {text} |",
    ]
    assert [*decisions_table(found, least_seeds=5)][2:] == rows[1:]


def test_the_readme_has_what_is_on_record():
    comparisons = json.loads((ROOT / "experiments" / "results.json").read_text())
    table = "\n".join(decisions_table(comparisons, SEEDS_OF_A_CLAIM))
    assert f"\n\n{table}\n\n" in (ROOT / "README.md").read_text()
    assert (
        "\n".join(decisions_table(comparisons)) in (ROOT / "experiments" / "RESULTS.md").read_text()
    )
