import jax
import numpy as np

from rlsyn_jax.recognition.identity_sampler import (
    make_identity_table,
    sample_identities,
    sample_images,
)

LABELS = np.array([0, 1, 1, 2, 2, 2, 2, 1, 4])


def test_images_belong_to_their_identity():
    table = make_identity_table(LABELS, 5)
    identities = np.array([2, 1, 0, 4])
    for seed in range(5):
        chosen = np.asarray(sample_images(jax.random.key(seed), table, identities, 3))
        assert chosen.shape == (4, 3)
        assert (LABELS[chosen] == identities[:, None]).all()


def test_images_do_not_repeat_where_there_are_enough():
    table = make_identity_table(LABELS, 5)
    for seed in range(10):
        chosen = np.asarray(sample_images(jax.random.key(seed), table, np.array([2]), 4))
        assert sorted(chosen[0]) == [3, 4, 5, 6]


def test_images_repeat_evenly_where_there_are_too_few():
    table = make_identity_table(LABELS, 5)
    chosen = np.asarray(sample_images(jax.random.key(0), table, np.array([1, 0]), 6))
    assert sorted(chosen[0]) == [1, 1, 2, 2, 7, 7]
    assert (chosen[1] == 0).all()


def test_every_image_is_drawn_sometimes():
    table = make_identity_table(LABELS, 5)
    seen = {
        int(index)
        for seed in range(40)
        for index in np.asarray(sample_images(jax.random.key(seed), table, np.array([2]), 1))[0]
    }
    assert seen == {3, 4, 5, 6}


def test_identities_come_from_the_candidates_without_repetition():
    candidates = np.array([3, 5, 8, 9])
    drawn = np.asarray(sample_identities(jax.random.key(1), candidates, 3))
    assert len(set(drawn)) == 3 and set(drawn) <= set(candidates)
    assert sorted(np.asarray(sample_identities(jax.random.key(1), candidates, 8))) == sorted(
        [*candidates, *candidates]
    )
