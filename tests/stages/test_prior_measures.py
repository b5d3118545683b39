"""Whether the prior draws whom it is asked for."""

import json

import pytest

from rlsyn_jax.evaluation.identification import named_by_others
from rlsyn_jax.stages import prior_measures
from rlsyn_jax.stages.extractors import embed_images, load_extractor
from rlsyn_jax.stages.inputs import load_general
from rlsyn_jax.stages.prior_measures import describe_prior, measure_prior


def test_samples_of_the_prior_are_named_by_the_judge(program, tmp_path):
    fields = {"pretrain.steps": 2}
    program.run(tmp_path, "--stages=pretrain", fields=fields)
    config = program.config()
    config.update_from_flattened_dict(fields)
    measured = measure_prior(config, tmp_path)
    assert measured["people"] == 6
    for name in ("guided", "unguided", "real"):
        shares = measured[name]
        assert 0 <= shares["low"] <= shares["mean"] <= shares["high"] <= 1
    (sentence,) = describe_prior(measured)
    assert f"real images {100 * measured['real']['mean']:.0f} %" in sentence
    general = load_general(config, tmp_path)
    embeddings = embed_images(load_extractor(config, tmp_path, "judge"), general.images)
    hits, _ = named_by_others(embeddings, general.identities)
    assert measured["real"]["mean"] == pytest.approx(hits.mean())


@pytest.mark.slow
def test_a_run_tells_how_often_its_prior_draws_the_right_people(program, tmp_path):
    program.run(tmp_path)
    measured = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())["prior"]
    (sentence,) = describe_prior(measured)
    assert sentence in (tmp_path / "report" / "report.html").read_text()
    assert measured == measure_prior(program.config(), tmp_path)


def test_nothing_is_said_of_a_prior_that_was_not_measured():
    assert describe_prior(None) == []


def test_people_with_one_image_are_nobody_to_measure_real_images_by():
    shares = dict.fromkeys(("guided", "unguided"), {"mean": 0.5, "low": 0.4, "high": 0.6})
    (sentence,) = describe_prior({"people": 3, **shares, "real": None})
    assert "real images" not in sentence and "50 % (40 to 60)" in sentence


def test_without_guidance_samples_are_drawn_once_and_told_once(program, tmp_path, monkeypatch):
    fields = {"pretrain.steps": 2, "synthesize.guidance_scale": 1.0}
    program.run(tmp_path, "--stages=pretrain", fields=fields)
    config, scales = program.config(), []
    config.update_from_flattened_dict(fields)
    own = prior_measures.make_sampler

    def make_sampler(drawn_with, classes):
        scales.append(drawn_with.synthesize.guidance_scale)
        return own(drawn_with, classes)

    monkeypatch.setattr(prior_measures, "make_sampler", make_sampler)
    measured = measure_prior(config, tmp_path)
    assert scales == [1.0] and measured["guided"] == measured["unguided"]
    (sentence,) = describe_prior(measured)
    assert "by the judge; of real images" in sentence and "guidance" not in sentence


def test_a_prior_whose_data_are_gone_is_not_measured(program, tmp_path, caplog):
    config = program.config(general_data={"source": "folder", "path": str(tmp_path / "gone")})
    assert measure_prior(config, tmp_path / "run") is None
    assert "the prior is not measured, since its data are gone" in caplog.text
