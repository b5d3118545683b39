"""Class rows told from embeddings: against scikit-learn, one known identity left out at a time."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from rlsyn_jax.models.class_rows import predict_class_rows


def make(known=30, width=5, d=8, noise=0.3, seed=0):
    random = np.random.default_rng(seed)
    weights = random.normal(size=(d, width))
    embeddings = random.normal(size=(known + 7, d)) + 2.0
    rows = embeddings @ weights + 3.0 + noise * random.normal(size=(known + 7, width))
    return rows[:known], embeddings[:known], embeddings[known:], rows[known:]


@pytest.mark.parametrize("noise", [0.1, 2.0, 30.0])
def test_the_penalty_is_that_by_which_each_left_out_is_told_best(noise):
    rows, embeddings, new, _ = make(noise=noise)
    found = predict_class_rows(rows, embeddings, new)
    spread = np.linalg.svd(embeddings - embeddings.mean(0), compute_uv=False)
    everybody = np.arange(len(rows))
    errors = {}
    for penalty in np.logspace(-4, 4, 33) * np.mean(spread**2):
        errors[penalty] = sum(
            np.square(
                rows[i]
                - Ridge(alpha=penalty)
                .fit(embeddings[everybody != i], rows[everybody != i])
                .predict(embeddings[[i]])[0]
            ).sum()
            for i in everybody
        )
    best = min(errors, key=errors.get)
    expected = Ridge(alpha=best).fit(embeddings, rows).predict(new)
    np.testing.assert_allclose(found.rows, expected, rtol=1e-4, atol=1e-4)
    means = np.stack([rows[everybody != i].mean(0) for i in everybody])
    assert found.explained == pytest.approx(1 - errors[best] / np.square(rows - means).sum())


def test_new_rows_are_told_where_embeddings_tell_them_and_are_the_mean_where_not():
    rows, embeddings, new, truth = make(noise=0.01)
    found = predict_class_rows(rows, embeddings, new)
    assert found.explained > 0.99
    np.testing.assert_allclose(found.rows, truth, atol=0.2)
    noise = np.random.default_rng(1).normal(size=rows.shape)
    found = predict_class_rows(noise, embeddings, new)
    assert found.explained < 0.1
    assert np.square(found.rows - noise.mean(0)).mean() < 0.1 * noise.var()


def test_more_directions_than_identities_and_rows_all_alike():
    rows, embeddings, new, _ = make(known=6, d=40)
    assert np.isfinite(predict_class_rows(rows, embeddings, new).rows).all()
    alike = predict_class_rows(np.ones((6, 5)), embeddings, new)
    np.testing.assert_allclose(alike.rows, 1)
    assert alike.explained == 0
    same = predict_class_rows(rows, np.ones((6, 4)), np.ones((2, 4)))
    np.testing.assert_allclose(same.rows, np.broadcast_to(rows.mean(0), (2, 5)), rtol=1e-5)


@pytest.mark.parametrize(
    ("known", "d", "new"),
    [((2, 4), (2, 3), (1, 3)), ((5, 4), (4, 3), (1, 3)), ((5, 4), (5, 3), (1, 2))],
)
def test_what_does_not_fit_is_refused(known, d, new):
    with pytest.raises(ValueError, match="known identities"):
        predict_class_rows(np.ones(known), np.ones(d), np.ones(new))
    with pytest.raises(ValueError, match="finite"):
        predict_class_rows(np.full((5, 4), np.nan), np.ones((5, 3)), np.ones((1, 3)))
