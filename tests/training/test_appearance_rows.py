"""Rows told from another image: which image tells, what noise does, and what people get of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.training.appearance_rows import (
    APPEARANCES,
    class_table,
    make_appearances,
    tell_rows,
)

# Images of a person do not stand side by side, and person 7 has one.
PEOPLE = np.array([3, 7, 3, 0, 0, 3, 0, 0])
VIEWS, NUMBER = 2, len(PEOPLE)
WIDTH = VIEWS * NUMBER
# Each view of each image is another direction.
EMBEDDINGS = np.eye(WIDTH, dtype=np.float32).reshape(VIEWS, NUMBER, WIDTH).swapaxes(0, 1)
BIAS, NULL = 5.0, -2.0


def parameters():
    table = np.concatenate([np.eye(WIDTH), np.full((1, WIDTH), BIAS), np.full((1, WIDTH), NULL)])
    return {
        "y_embedder": {"embedding_table": jnp.asarray(table, jnp.float32)},
        "rest": jnp.ones(2),
        APPEARANCES: jax.tree.map(jnp.asarray, make_appearances(EMBEDDINGS, PEOPLE)),
    }


@jax.jit
def told(key):
    return tell_rows(parameters(), key, jnp.arange(NUMBER), noise=0.0)


def test_another_image_of_the_person_tells_each_row():
    seen = np.zeros((NUMBER, NUMBER, VIEWS), int)
    for seed in range(200):
        params = told(jax.random.key(seed))
        assert set(params) == {"y_embedder", "rest"}
        table = np.asarray(params["y_embedder"]["embedding_table"])
        assert table.shape == (NUMBER + 1, WIDTH) and (table[-1] == NULL).all()
        chosen = np.argmax(table[:-1] - BIAS, axis=1)
        np.testing.assert_allclose(table[:-1] - BIAS, np.eye(WIDTH)[chosen], atol=1e-6)
        seen[np.arange(NUMBER), chosen % NUMBER, chosen // NUMBER] += 1
    for image, person in enumerate(PEOPLE):
        others = [other for other in np.flatnonzero(PEOPLE == person) if other != image]
        others = others or [image]
        assert np.flatnonzero(seen[image].sum(axis=1)).tolist() == others
        # Each about as often, in either view.
        expected = 200 / len(others) / VIEWS
        assert (np.abs(seen[image, others] - expected) < 5 * np.sqrt(expected)).all()


def test_noise_moves_a_unit_embedding_by_its_share_at_most():
    params = parameters()
    images = jnp.zeros(400, jnp.int32)  # Image 0, whose person has two others.

    def rows(noise):
        table = tell_rows(params, jax.random.key(0), images, noise=noise)["y_embedder"]
        return np.asarray(table["embedding_table"][:-1]) - BIAS

    moved = np.linalg.norm(rows(0.5) - rows(0.0), axis=1)
    np.testing.assert_allclose(np.linalg.norm(rows(0.5), axis=1), 1, atol=1e-5)
    # The norm of 16 normal numbers over 4 is 1, give or take a fifth; shares lie in 0..0.5.
    assert 0.15 < moved.mean() < 0.3 and moved.max() < 0.9 and np.quantile(moved, 0.1) < 0.1
    np.testing.assert_allclose(np.linalg.norm(rows(0.0), axis=1), 1, atol=1e-6)


def test_people_have_the_rows_of_their_mean_embedding():
    table = parameters()["y_embedder"]["embedding_table"]
    means = np.stack([EMBEDDINGS[PEOPLE == person, 0].mean(axis=0) for person in (0, 3, 7)])
    rows = class_table(table, means)
    assert rows.shape == (4, WIDTH) and rows.dtype == np.float32
    np.testing.assert_allclose(rows[:-1], means + BIAS, rtol=1e-6)
    assert (rows[-1] == NULL).all()


def test_the_map_the_bias_and_the_null_row_learn():
    params = parameters()

    def loss(table):
        changed = {**params, "y_embedder": {"embedding_table": table}}
        rows = tell_rows(changed, jax.random.key(0), jnp.array([1, 4]), noise=0.1)
        return jnp.sum(rows["y_embedder"]["embedding_table"] ** 2)

    gradient = np.asarray(jax.grad(loss)(params["y_embedder"]["embedding_table"]))
    assert np.abs(gradient[-1]).min() > 1 and np.abs(gradient[-2]).min() > 1
    assert np.abs(gradient[:-2]).max() > 0.1


@pytest.mark.parametrize("batch", [3, 5])
def test_what_a_sample_gets_does_not_depend_on_the_batch(batch):
    whole = told(jax.random.key(1))["y_embedder"]["embedding_table"]
    part = tell_rows(parameters(), jax.random.key(1), jnp.arange(batch), noise=0.0)
    np.testing.assert_allclose(part["y_embedder"]["embedding_table"][:-1], whole[:batch], atol=1e-6)
