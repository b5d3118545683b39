"""What stage reinforce warns of while it runs."""

from types import SimpleNamespace

from rlsyn_jax.config import default_config
from rlsyn_jax.stages.reinforce import _warn


class Writer:
    """Keeps the texts that it is given."""

    def __init__(self):
        """Nothing is written yet."""
        self.texts = {}

    def write_texts(self, step, texts):
        """Keeps them by step."""
        self.texts[step] = texts


def warned(values):
    config, writer = default_config(), Writer()
    measure = f"held_out/{config.reinforce.held_out_measure}"
    history = [{"step": step, "reward/total": 0.0, measure: 0.5} for step in (0, 1)]
    _warn(config, SimpleNamespace(real_spread=0.5), writer, 1, values, history)
    return writer.texts


def test_samples_that_have_no_spread_have_not_collapsed():
    assert warned({}) == {}
    assert warned({"spread_within_identity": 0.5}) == {}
    assert "warning/collapse" in warned({"spread_within_identity": 0.0})[1]
