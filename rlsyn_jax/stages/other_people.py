"""People beside the target's, whom some arms of the recognisers learn to tell apart, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from rlsyn_jax.data.synthetic_writer import load_synthetic
from rlsyn_jax.stages import novel_identities, prior_people
from rlsyn_jax.stages.extractors import in_memory
from rlsyn_jax.stages.inputs import load_general


def load_other_people(
    config: ConfigDict, workdir: Path, kind: str, num_identities: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images of other people, with labels that count on from the target's.

    Args:
        config: complete configuration.
        workdir: of the run.
        kind: "general", those that prior and extractors learnt from, or as many as memory holds the
            images of; "prior", some of those as the prior drew them; or "novel", those of stage
            synthesize who do not exist.
        num_identities: training people of the target.

    Returns:
        uint8 [n, h, w, c] and int32 [n], from num_identities on.

    Raises:
        ValueError: there is no image of them.
    """
    if kind == "general":
        general = in_memory(load_general(config, workdir))
        return general.images, (num_identities + general.identities).astype(np.int32)
    if kind == "prior":
        drawn, _ = load_synthetic(Path(workdir) / "synthesize" / prior_people.FOLDER)
        return drawn.images, (num_identities + drawn.identities).astype(np.int32)
    novel, _ = load_synthetic(Path(workdir) / "synthesize" / novel_identities.FOLDER)
    if not len(novel.images):
        raise ValueError(
            "recognize: there is nobody who does not exist, since all candidates looked like "
            "training people; raise config.synthesize.max_attempts, or leave the arm real_novel out"
        )
    return novel.images, novel.identities.astype(np.int32)


def people_to_draw(labels: np.ndarray, number: int) -> np.ndarray:
    """Returns those with two images or more, int32; everybody, where these are below `number`.

    A person with one image says nothing about what changes between images of a person.

    Args:
        labels: int [n], of each image.
        number: drawn for a batch.
    """
    people, counts = np.unique(labels, return_counts=True)
    several = people[counts >= 2]
    return (several if len(several) >= number else people).astype(np.int32)
