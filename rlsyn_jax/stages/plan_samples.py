"""How many samples stage synthesize will draw, and what the generator computes for them."""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from rlsyn_jax.models.dit_flops import forward_flops
from rlsyn_jax.stages import novel_identities, prior_people
from rlsyn_jax.stages.best_of import candidates_after
from rlsyn_jax.stages.data_counts import count_target
from rlsyn_jax.stages.generator import build_generator
from rlsyn_jax.stages.latent_space import sample_shape
from rlsyn_jax.stages.plan import UTILISATION, Devices
from rlsyn_jax.stages.synthesize import BEST_OF, data_sets


@dataclasses.dataclass(frozen=True)
class SamplesPlan:
    """What stage synthesize draws.

    Attributes:
        drawn: samples for each data set, candidates among them; what is drawn once more, as near
            copies are, is not.
        flops: of the generator's matrix products, for all of them.
    """

    drawn: dict[str, int]
    flops: int

    def seconds(self, devices: Devices, dtype: str) -> float | None:
        """Returns the time of it at the assumed utilisation, or None where rates are not known.

        Of several processes each draws all of them, on its own devices: where the devices are of
        several, it takes so many times as long.
        """
        if devices.kind is None:
            return None
        return self.flops / (devices.number * UTILISATION * getattr(devices.kind, dtype))


def plan_samples(config: ConfigDict) -> SamplesPlan:
    """Returns the plan of a run's stage synthesize.

    Args:
        config: complete configuration.

    Raises:
        ConfigError: the data cannot be counted, or reinforcement's steps cannot be chosen so.
    """
    settings, (people, _) = config.synthesize, count_target(config)
    drawn = {}
    for name in data_sets(config):
        candidates = settings.candidates
        if name == BEST_OF:
            candidates = candidates_after(config, config.reinforce.iterations, people)
        drawn[name] = people * settings.images * candidates
    if settings.identities == "novel":
        drawn[novel_identities.FOLDER] = settings.num_novel * settings.images
    if settings.prior_identities:
        number = settings.prior_identities * settings.images * settings.candidates
        drawn[prior_people.FOLDER] = number
    branches = 1 if settings.guidance_scale == 1 else 2
    passes = sum(drawn.values()) * settings.num_steps * branches
    model = build_generator(config, people).clone(remat="none")
    return SamplesPlan(drawn, passes * forward_flops(model, sample_shape(config)))
