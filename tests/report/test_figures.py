"""Charts read back from their SVG: places on the page against the numbers that went in."""

import base64
import html
import io
import re
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from rlsyn_jax.report.figures import (
    COLORS,
    MUTED,
    curve_chart,
    distance_chart,
    image_strip,
    interval_chart,
    png,
    sphere_map,
)

SVG = "{http://www.w3.org/2000/svg}"
ROWS = [("real & only", 50.0, 45.0, 55.0), ("both", 60.0, 52.0, 70.0), ("none", 20.0, 10.0, 25.0)]
CURVES = {"reward a": ([0, 2, 5], [1.0, 3.0, 2.0]), "reward b": (range(40), np.arange(40) / 10)}
SETS = {"held-out real": np.array([0.4, 0.1, 0.3, 0.2]), "after RL": np.array([0.25, 0.05])}


def make_map():
    front = np.array([True, True, False, True, False])
    places = np.array([[0.0, 0.5], [0.5, 0.0], [0.0, -0.5], [-0.5, 0.0], [0.2, 0.2]])
    return front, places, np.array([0, 1, 1, 2, 0]), np.array([0, 1, 0, 1, 1])


CHARTS = {
    "interval": lambda: interval_chart("mAP < 1 (%)", ROWS),
    "curve": lambda: curve_chart("Rewards", CURVES, "iteration"),
    "distance": lambda: distance_chart("How near", SETS, 0.15),
    "sphere": lambda: sphere_map(*make_map(), ["real, training", "synthetic"]),
}


def parse(uri):
    kind, content = uri.split(",")
    assert kind == "data:image/svg+xml;base64"
    builder = ElementTree.TreeBuilder(insert_comments=True)
    parser = ElementTree.XMLParser(target=builder)
    return ElementTree.fromstring(base64.b64decode(content, validate=True), parser)


def texts(root):
    """What is written on the chart: matplotlib draws letters, and notes each text beside them."""
    return [html.unescape(node.text).strip() for node in root.iter(ElementTree.Comment)]


def lines(root, **style):
    """Returns the [points, 2] of the drawn lines of a style."""
    wanted = [f"{name.replace('_', '-')}: {value}" for name, value in style.items()]
    return [
        np.array(re.findall(r"[ML] (\S+) (\S+)", path.get("d")), float)
        for path in root.iter(f"{SVG}path")
        if all(part in path.get("style", "") for part in wanted) and path.get("clip-path")
    ]


def markers(root, color):
    return np.array(
        [
            (float(use.get("x")), float(use.get("y")))
            for use in root.iter(f"{SVG}use")
            if f"fill: {color}" in use.get("style", "")
        ]
    )


def spots(root, color):
    """Centres of the points of a scatter; matplotlib draws few of a kind as paths of their own."""
    centres = []
    for group in root.iter(f"{SVG}g"):
        if group.get("id", "").startswith("PathCollection"):
            centres.extend(markers(group, color))
            for path in group.iter(f"{SVG}path"):
                if f"fill: {color}" in path.get("style", ""):
                    corners = re.findall(r"[ML] (\S+) (\S+)", path.get("d"))
                    centres.append(np.array(corners, float).mean(axis=0))
    return np.array(centres)


def assert_straight(places, values):
    """Places on the page are a linear function of the values; returns its slope."""
    slope, start = np.polyfit(values, places, 1)
    assert abs(slope) > 1e-9
    np.testing.assert_allclose(start + slope * np.asarray(values), places, atol=0.01)
    return slope


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_an_svg_that_fetches_nothing_and_is_the_same_every_time(name):
    uri = CHARTS[name]()
    root = parse(uri)
    assert root.tag == f"{SVG}svg"
    for node in root.iter():
        if isinstance(node.tag, str):
            assert node.tag.removeprefix(SVG) not in ("script", "image", "style", "a") or (
                node.tag == f"{SVG}style" and "url(" not in node.text and "@" not in node.text
            )
            for attribute, value in node.attrib.items():
                assert not attribute.endswith("href") or value.startswith("#")
                assert "url(" not in value or "url(#" in value
    assert uri == CHARTS[name]()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("interval", ["mAP < 1 (%)", "real & only", "both", "none"]),
        ("curve", ["Rewards", "reward a", "reward b", "iteration"]),
        ("distance", ["How near", "held-out real", "after RL", "near copies", "% of images"]),
        ("sphere", ["front", "back", "real, training", "synthetic"]),
    ],
)
def test_titles_names_and_axes_are_written_on_the_chart(name, words):
    assert set(words) <= set(texts(parse(CHARTS[name]())))


def test_intervals_lie_at_their_ends_top_to_bottom_with_dots_at_the_means():
    root = parse(CHARTS["interval"]())
    drawn = lines(root, stroke_opacity=0.6)
    assert len(drawn) == 3
    ends = [place for line in drawn for place in line[:, 0]]
    values = [end for _, _, low, high in ROWS for end in (low, high)]
    baseline = lines(root, stroke_dasharray="")[0]
    dots = np.concatenate([markers(root, MUTED), markers(root, COLORS[0])])
    means = [mean for _, mean, _, _ in ROWS]
    assert_straight([*ends, *dots[:, 0], *baseline[:, 0]], [*values, *means, means[0], means[0]])
    heights = [line[0, 1] for line in drawn]
    assert heights == sorted(heights) and len(set(heights)) == 3  # Down the page.
    np.testing.assert_allclose(dots[:, 1], heights)


def test_curves_pass_through_their_points():
    root = parse(CHARTS["curve"]())
    places, values = [], []
    for color, (steps, numbers) in zip(COLORS, CURVES.values()):
        (line,) = lines(root, stroke=color, stroke_width=1.8)
        places.append(line)
        values.append(np.stack([steps, numbers], axis=1))
    places, values = np.concatenate(places), np.concatenate(values)
    assert assert_straight(places[:, 0], values[:, 0]) > 0
    assert assert_straight(places[:, 1], values[:, 1]) < 0  # Upwards.
    # Few points are marked one by one, many are not.
    assert len(markers(root, COLORS[0])) == 3 and len(markers(root, COLORS[1])) == 0


def test_a_value_that_was_not_finite_leaves_a_gap():
    chart = curve_chart("T", {"a": ([0, 1, 2, 3, 4], [1.0, 2.0, None, 3.0, 4.0])}, "iteration")
    path = next(
        path for path in parse(chart).iter(f"{SVG}path") if COLORS[0] in path.get("style", "")
    )
    assert path.get("d").count("M ") == 2


def test_no_curves_give_an_empty_chart():
    chart = parse(curve_chart("T", {}, "iteration"))
    assert not lines(chart, stroke=COLORS[0], stroke_width=1.8)


def test_distance_curves_rise_by_one_image_at_each_distance():
    root = parse(CHARTS["distance"]())
    across, up = [], []
    for color, distances in zip(COLORS, SETS.values()):
        (line,) = lines(root, stroke=color, stroke_width=1.8)
        ordered = sorted(distances)
        shares = 100 * np.arange(1, len(ordered) + 1) / len(ordered)
        across += zip(line[:, 0], np.repeat(ordered, 2)[1:])
        up += zip(line[:, 1], np.repeat(shares, 2)[:-1])
    threshold = lines(root, stroke_dasharray="")[-1]
    assert len(threshold) == 2
    assert assert_straight(*zip(*across, (threshold[0, 0], 0.15))) > 0
    assert assert_straight(*zip(*up)) < 0


def test_each_point_of_the_map_lies_on_its_side_in_its_person_s_colour():
    front, places, labels, _ = make_map()
    root = parse(CHARTS["sphere"]())
    middle = float(root.get("viewBox").split()[2]) / 2
    colors = [to_hex(color) for color in matplotlib.colormaps["tab10"].colors]
    for person in range(3):
        found = spots(root, colors[person])
        own = labels == person
        assert len(found) == own.sum()
        assert sorted(found[:, 0] < middle) == sorted(front[own])
    # On the front: person 0 is above person 2's height, person 1 to the right of person 2.
    on_front = {p: [m for m in spots(root, colors[p]) if m[0] < middle][0] for p in range(3)}
    assert on_front[0][1] < on_front[2][1] and on_front[1][0] > on_front[0][0] > on_front[2][0]


def test_colours_repeat_only_after_all_are_used():
    number = 22
    angle = np.linspace(0, 6, number)
    places = 0.9 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    chart = sphere_map(
        np.ones(number, bool), places, np.arange(number), np.zeros(number, int), ["real"]
    )
    palette = matplotlib.colormaps["tab10"].colors + matplotlib.colormaps["Set3"].colors
    assert len({to_hex(color) for color in palette}) == number
    root = parse(chart)
    assert all(len(spots(root, to_hex(color))) == 1 for color in palette)


def read_png(uri):
    kind, content = uri.split(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content, validate=True))))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_keeps_its_pixels(channels):
    image = np.random.default_rng(0).integers(0, 256, (3, 5, channels), dtype=np.uint8)
    np.testing.assert_array_equal(read_png(png(image)).reshape(image.shape), image)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("number", [1, 4])
def test_a_strip_is_the_images_with_a_white_line_between_them(number, channels):
    images = np.random.default_rng(1).integers(0, 255, (number, 3, 2, channels), dtype=np.uint8)
    strip = read_png(image_strip(images)).reshape(3, number * 3 - 1, channels)
    for place in range(number):
        np.testing.assert_array_equal(strip[:, 3 * place : 3 * place + 2], images[place])
        assert (strip[:, 3 * place + 2 : 3 * place + 3] == 255).all()


def test_long_labels_leave_room_for_the_intervals(recwarn):
    label = "images=2,start=general,seed=0 real + people of the prior, selected " * 2
    rows = [(label, 50.0, 40.0, 60.0)] * 3
    tree = ElementTree.fromstring(base64.b64decode(interval_chart("mAP", rows).partition(",")[2]))
    assert not recwarn.list
    wide, high = (float(tree.attrib[name].removesuffix("pt")) for name in ("width", "height"))
    assert wide < 400 and high > 150
