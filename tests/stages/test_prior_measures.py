"""Whether the prior draws whom it is asked for."""

import json

from rlsyn_jax.stages.extractors import embed_images, load_extractor
from rlsyn_jax.stages.inputs import load_general
from rlsyn_jax.stages.prior_measures import describe_prior, share_named


def test_samples_of_the_prior_are_named_by_the_judge(program, tmp_path):
    program.run(tmp_path)
    measured = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())["prior"]
    assert measured["people"] == 6
    for name in ("guided", "unguided", "real"):
        shares = measured[name]
        assert 0 <= shares["low"] <= shares["mean"] <= shares["high"] <= 1
    (sentence,) = describe_prior(measured)
    assert f"real images {100 * measured['real']['mean']:.0f} %" in sentence
    assert sentence in (tmp_path / "report" / "report.html").read_text()

    config = program.config()
    general = load_general(config, tmp_path)
    embeddings = embed_images(load_extractor(config, tmp_path, "judge"), general.images)
    enrolled = (config, embeddings, general.identities, embeddings)
    assert share_named(*enrolled, general.identities) == measured["real"]
    right = measured["real"]["mean"]
    # The same images, asked for as somebody else.
    assert share_named(*enrolled, (general.identities + 1) % 6)["mean"] <= 1 - right
    assert right > 1 / 6


def test_nothing_is_said_of_a_prior_that_was_not_measured():
    assert describe_prior(None) == []
