import jax
import numpy as np

from rlsyn_jax.recognition.identity_sampler import (
    make_identity_table,
    sample_identities,
    sample_identities_and_others,
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


def test_so_many_others_follow_the_candidates():
    candidates, others = np.array([0, 1, 2]), np.array([7, 8, 9, 10])
    seen = set()
    for seed in range(20):
        drawn = sample_identities_and_others(jax.random.key(seed), candidates, others, 5, 3)
        own, rest = np.split(np.asarray(drawn), [2])
        assert len(set(own)) == 2 and set(own) <= set(candidates)
        assert len(set(rest)) == 3 and set(rest) <= set(others)
        seen |= set(np.asarray(drawn).tolist())
    assert seen == {*candidates, *others}
    # The candidates are those that are drawn without others.
    alone = sample_identities(jax.random.key(3), candidates, 2)
    mixed = sample_identities_and_others(jax.random.key(3), candidates, others, 5, 3)
    np.testing.assert_array_equal(mixed[:2], alone)
