"""Grids of images, pixel by pixel."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rlsyn_jax.training.image_grids import make_grid, save_png


@settings(max_examples=25, deadline=None)
@given(
    number=st.integers(1, 7),
    columns=st.integers(1, 4),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    channels=st.sampled_from([1, 3]),
)
def test_images_lie_row_by_row_and_the_rest_is_white(number, columns, height, width, channels):
    images = np.random.default_rng(0).integers(
        0, 255, (number, height, width, channels), dtype=np.uint8
    )
    grid = make_grid(images, columns)
    rows = (number + columns - 1) // columns
    assert grid.shape == (rows * height, columns * width, 3) and grid.dtype == np.uint8
    for place in range(rows * columns):
        top, left = place // columns * height, place % columns * width
        tile = grid[top : top + height, left : left + width]
        for channel in range(3):
            expected = images[place, ..., channel % channels] if place < number else 255
            np.testing.assert_array_equal(
                tile[..., channel], np.broadcast_to(expected, tile.shape[:2])
            )


@pytest.mark.parametrize("channels", [1, 3])
def test_a_saved_grid_reads_back_as_it_was(tmp_path, channels):
    images = np.random.default_rng(1).integers(0, 256, (5, 4, 6, channels), dtype=np.uint8)
    grid = make_grid(images, 3)
    save_png(tmp_path / "new" / "grid.png", grid)
    with Image.open(tmp_path / "new" / "grid.png") as file:
        assert file.format == "PNG"
        np.testing.assert_array_equal(np.asarray(file), grid)
    assert os.listdir(tmp_path / "new") == ["grid.png"]
