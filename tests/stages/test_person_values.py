"""Each person's values, and that they make up the figures."""

import numpy as np

from rlsyn_jax.evaluation.verification import ten_fold_accuracy
from rlsyn_jax.stages.person_values import PersonValues


def test_values_of_people_with_their_weights_make_the_mean():
    random = np.random.default_rng(0)
    people, values = random.integers(0, 4, 30), random.random((2, 30))
    people[people == 2] = 3  # Somebody without a query.
    found = PersonValues(("ann", "bob", "cid", "dan"))
    for row in values:
        found.add("real", "open_map", row, people)
    content = found.content()
    weights, of_people = content["weights"]["open_map"], content["arms"]["real"]["open_map"]
    assert set(weights) == set(of_people) == {"ann", "bob", "dan"}
    np.testing.assert_allclose(of_people["bob"], values[:, people == 1].mean(axis=1))
    for seed in range(2):
        mean = np.average([v[seed] for v in of_people.values()], weights=list(weights.values()))
        np.testing.assert_allclose(mean, values[seed].mean())


def test_pairs_counted_for_both_images_make_the_accuracy():
    random = np.random.default_rng(1)
    people = random.integers(0, 3, (2, 40))
    is_same = people[0] == people[1]
    first, second = random.normal(size=(2, 40, 4))
    result = ten_fold_accuracy(first, second, is_same)
    for fold, threshold in enumerate(result.thresholds):
        part = slice(4 * fold, 4 * fold + 4)
        unit = [x[part] / np.linalg.norm(x[part], axis=1, keepdims=True) for x in (first, second)]
        accepted = ((unit[0] - unit[1]) ** 2).sum(axis=1) < threshold
        np.testing.assert_array_equal(result.correct[part], accepted == is_same[part])
    found = PersonValues(("ann", "bob", "cid"))
    found.add("real", "verification", np.tile(result.correct, 2), people.reshape(-1))
    weights, values = (
        part["verification"]
        for part in (found.content()["weights"], found.content()["arms"]["real"])
    )
    mean = np.average([v[0] for v in values.values()], weights=list(weights.values()))
    np.testing.assert_allclose(mean, result.accuracy_mean)
