"""The page as a browser's parser reads it: complete, escaped, and fetching nothing."""

import re
from html.parser import HTMLParser

import jinja2
import pytest

from rlsyn_jax.report.page import render_page

PIXEL = "data:image/png;base64,iVBORw0KGgo="
LINKS = ["../evaluate/metrics.json", "../adapt/model"]


def make_content(**changes):
    difference = {"mean": 0.034, "low": 0.012, "high": 0.0567}
    cell = {"mean": 0.5, "low": 0.4321, "high": 0.6, "difference": None, "verdict": ""}
    content = {
        "title": "run one",
        "subtitle": "faces: 9 people",
        "summary": [
            {"text": "better by far", "warning": False},
            {"text": "not usable", "warning": True},
        ],
        "arms_text": "Every arm is equal.",
        "arm_tables": [
            {
                "titles": ["mAP", "rank-1"],
                "rows": [
                    {"title": "real only", "cells": [cell, cell]},
                    {
                        "title": "both",
                        "cells": [
                            {**cell, "difference": difference, "verdict": "good"},
                            {
                                **cell,
                                "difference": {"mean": -0.021, "low": -0.03, "high": -0.01},
                                "verdict": "bad",
                            },
                        ],
                    },
                ],
            }
        ],
        "arm_notes": ["TAR is not measured: too few."],
        "verification_tables": [
            {"titles": ["lfw"], "rows": [{"title": "real, on lfw", "cells": [cell]}]}
        ],
        "group_tables": [
            {
                "caption": "groups, one threshold",
                "titles": ["African"],
                "rows": [
                    {"title": "of a group", "cells": [{"value": "71.3", "interval": "FAR 2.5"}]}
                ],
            }
        ],
        "samples_text": "The same people.",
        "rankings_text": "Queries on the left.",
        "rankings": [{"image": PIXEL, "caption": "ann: 4 of 5 right"}],
        "arm_charts": [{"image": PIXEL, "alt": "chart of mAP"}],
        "grid_columns": "minmax(4rem, 7rem) 3fr 5fr 5fr",
        "people": [
            {
                "name": "ann",
                "strips": [
                    {"image": PIXEL, "kind": kind, "width": 146}
                    for kind in ("real", "cold start", "after RL")
                ],
            }
        ],
        "verdicts": ["They are."],
        "synthetic_tables": [
            {
                "titles": ["identity, %", "near copies"],
                "rows": [
                    {
                        "title": "after RL",
                        "cells": [
                            {"value": "91.0", "interval": "88.0 to 93.0"},
                            {"value": 0, "interval": ""},
                        ],
                    }
                ],
            }
        ],
        "novel_text": "Nobody is one of them.",
        "novel_table": {
            "titles": ["taken for, %"],
            "rows": [{"title": "judge", "cells": [{"value": "0.0", "interval": "0.0 to 0.1"}]}],
        },
        "novel_people": [{"name": "novel_0", "image": PIXEL, "width": 99}],
        "learning_warnings": ["Iteration 5: something fell."],
        "curve_charts": [{"image": PIXEL, "alt": "curves", "caption": "What they mean."}],
        "privacy_text": "Nearest images.",
        "distance_chart": PIXEL,
        "privacy_tables": [
            {
                "title": "Were images copied?",
                "text": "No more than by chance.",
                "titles": ["share, %", "number"],
                "rows": [
                    {
                        "title": "pixels",
                        "cells": [
                            {"value": "4.0", "interval": "1.0 to 9.0"},
                            {"value": "3", "interval": ""},
                        ],
                    },
                    {"title": "judge", "cells": [{"value": "too few", "interval": ""}]},
                ],
            },
            {"title": "Extraction", "text": "Not measured: none.", "titles": [], "rows": []},
        ],
        "pair_groups": [
            {
                "title": "closest",
                "pairs": [
                    {"image": PIXEL, "caption": "0.123", "near": True},
                    {"image": PIXEL, "caption": "0.456", "near": False},
                ],
            }
        ],
        "map": PIXEL,
        "map_text": "Ten people.",
        "facts": [("Devices", "8 x cpu")],
        "timing": [("adapt", "2 min 05 s")],
        "files": [{"link": link, "what": f"what {link} is"} for link in LINKS],
        "configuration": '{"seed": 0}',
    }
    return {**content, **changes}


class Page(HTMLParser):
    """Collects tags and text, and proves that every tag that opens is closed."""

    EMPTY = {"meta", "img", "br", "hr", "input", "link"}

    def __init__(self, html):
        super().__init__()
        self.tags, self.words, self.open, self.declarations = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_decl(self, declaration):
        self.declarations.append(declaration)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data.strip())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(word for word in self.words if word)


def test_everything_in_the_content_is_on_the_page():
    html = render_page(make_content())
    page = Page(html)
    assert page.declarations == ["doctype html"] and "utf-8" in html
    assert page.all("html") == [{"lang": "en"}]

    def strings(value):
        if isinstance(value, dict):
            value = [v for k, v in value.items() if k not in ("image", "width", "kind", "alt")]
        if isinstance(value, list | tuple):
            return [text for part in value for text in strings(part)]
        return [value] if isinstance(value, str) else []

    shown = make_content(distance_chart="", map="m")
    for text in strings({**shown, "map": "", "grid_columns": ""}):
        if text not in ("good", "bad"):
            assert text in page.text
    assert "minmax(4rem, 7rem) 3fr 5fr 5fr" in html
    # Chart, ranking, three strips, one who does not exist, curves, distances, two pairs, the map.
    images = page.all("img")
    assert len(images) == 11 and all(image["alt"] for image in images)
    assert [i["style"] for i in images if "style" in i] == [
        *["max-width: 146px"] * 3,
        "max-width: 99px",
    ]


def test_numbers_are_percent_with_signs_and_coloured_by_their_verdict():
    html = render_page(make_content())
    text = Page(html).text
    assert "50.0 43.2 to 60.0" in text
    assert "+3.4 (+1.2 to +5.7)" in text and "−2.1 (−3.0 to −1.0)" in text
    assert re.search(r'class="good">\+3\.4', html) and re.search(r'class="bad">−2\.1', html)
    # Rows without a difference have none.
    assert html.count('class="good"') == html.count('class="bad"') == 1


def test_the_page_fetches_nothing_and_links_only_to_itself_and_the_listed_files():
    html = render_page(make_content())
    page = Page(html)
    assert not re.search(r"(https?|file|ftp):|//|@import|url\(", html)
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    for _, attributes in page.tags:
        assert not {"srcset", "data", "action", "poster", "background"} & set(attributes)
        assert attributes.get("src", "data:").startswith("data:")
    targets = [a["href"] for a in page.all("a")]
    inside = [target[1:] for target in targets if target.startswith("#")]
    assert set(inside) <= {a["id"] for _, a in page.tags if "id" in a} and len(inside) == 6
    assert [target for target in targets if not target.startswith("#")] == LINKS


@pytest.mark.parametrize("place", ["title", "subtitle", "configuration", "map_text"])
def test_markup_in_the_content_is_shown_and_not_run(place):
    nasty = '<script src="x">alert(1)</script> & "quotes"'
    page = Page(render_page(make_content(**{place: nasty})))
    assert not page.all("script") and nasty in page.text


def test_a_name_with_quotes_stays_inside_its_attribute():
    people = make_content()["people"]
    people[0]["name"] = '"><img src=x onerror=alert(1)>'
    page = Page(render_page(make_content(people=people)))
    assert all("onerror" not in image for image in page.all("img"))
    assert page.all("img")[2]["alt"] == '"><img src=x onerror=alert(1)>, real'


def test_warnings_are_marked():
    classes = [a["class"] for a in Page(render_page(make_content())).all("p") if "class" in a]
    # One of the outcome's sentences and the word on privacy; what reinforcement warned of.
    assert classes.count("summary") == 2 and classes.count("summary warning") == 2


def test_a_page_without_a_map_has_the_text_only():
    page = Page(render_page(make_content(map="")))
    assert len(page.all("img")) == 10 and "Ten people." in page.text


def test_near_copies_are_framed_and_what_is_not_measured_takes_the_row():
    html = render_page(make_content())
    assert html.count('<figure class="near">') == 1
    assert re.search(r'colspan="2">too few<', html) and html.count("colspan") == 1
    assert "Not measured: none." in Page(html).text


def test_a_page_without_rankings_has_no_heading_for_them():
    assert "What queries find" in render_page(make_content())
    assert "What queries find" not in render_page(make_content(rankings=[]))


def test_a_page_without_people_who_do_not_exist_does_not_speak_of_them():
    without = render_page(make_content(novel_people=[], novel_text="", novel_table={}))
    assert "do not exist" in render_page(make_content()) and "do not exist" not in without


# What stands inside a part that others leave out is asked for with that part.
@pytest.mark.parametrize("name", sorted(make_content()))
def test_content_that_lacks_a_name_is_an_error_and_not_an_empty_place(name):
    content = make_content()
    del content[name]
    with pytest.raises(jinja2.UndefinedError, match=f"'{name}' is undefined"):
        render_page(content)
