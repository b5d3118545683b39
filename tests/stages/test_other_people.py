"""People beside the target's, in batches of the recognisers."""

import numpy as np

from rlsyn_jax.stages.inputs import load_general
from rlsyn_jax.stages.other_people import load_other_people, people_to_draw
from rlsyn_jax.stages.recognize import _initial_state
from rlsyn_jax.training.meshes import make_mesh


def test_labels_of_general_people_count_on_from_the_targets(program, tmp_path):
    config = program.config()
    general = load_general(config, tmp_path)
    images, labels = load_other_people(config, tmp_path, "general", 5)
    np.testing.assert_array_equal(images, general.images)
    np.testing.assert_array_equal(labels, general.identities + 5)


def test_classes_of_others_begin_as_nobody_of_the_target(program, tmp_path):
    config = program.config()
    state = _initial_state(config, tmp_path, 0, "real_scratch", 9, 18, make_mesh())
    classifier = np.asarray(state.params["classifier"])
    alike = np.corrcoef(classifier.T) - np.eye(18)
    assert classifier.shape[1] == 18 and np.abs(alike).max() < 0.9


def test_people_with_one_image_are_drawn_only_for_want_of_others():
    labels = np.array([7, 5, 5, 9, 9, 9, 6])
    assert people_to_draw(labels, 2).tolist() == [5, 9]
    assert people_to_draw(labels, 3).tolist() == [5, 6, 7, 9]
