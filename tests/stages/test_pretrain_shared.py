"""A prior that is not told who is in an image: one row for all, and what is built upon it."""

import jax
import numpy as np

from rlsyn_jax.stages.generator import init_params
from rlsyn_jax.stages.plan import make_plan
from rlsyn_jax.stages.pretrain import prior_fingerprint
from rlsyn_jax.stages.prior_measures import measure_prior
from rlsyn_jax.training.checkpoints import restore_params

FIELDS = {"pretrain.class_rows": "shared"}


def table_of(folder):
    return restore_params(folder)["y_embedder"]["embedding_table"]


def test_all_people_share_a_row_with_which_those_of_new_people_begin(program, tmp_path):
    fields = {**FIELDS, "adapt.steps": 1, "adapt.learning_rate": 1e-9}
    log = program.run(tmp_path, "--stages=pretrain,adapt", fields=fields)
    config = program.config()
    config.update_from_flattened_dict(fields)
    shared, null = table_of(tmp_path / "pretrain" / "model")
    assert np.abs(shared - null).max() > 1e-3
    rows = table_of(tmp_path / "adapt" / "model")
    assert len(rows) > 2
    np.testing.assert_allclose(rows, [*[shared] * (len(rows) - 1), null], atol=1e-6)
    # It draws nobody who could be the wrong one, and extractors know the people all the same.
    assert measure_prior(config, tmp_path) is None
    assert f"of {config.general_data.num_identities} identities" in log


def test_such_a_prior_is_another_and_is_planned_as_it_is(program):
    config = program.config()
    config.pretrain.source = "train"
    learnt, of_people = prior_fingerprint(config), make_plan(config).stages[0].parameters
    config.pretrain.class_rows = "shared"
    of_one = prior_fingerprint(config)
    assert of_one != learnt
    config.pretrain.appearance_noise /= 2  # Nobody reads it.
    assert prior_fingerprint(config) == of_one
    number = sum(leaf.size for leaf in jax.tree.leaves(init_params(config, 1, seed=0)))
    assert make_plan(config).stages[0].parameters == (number, number) < of_people
