"""A finished run's recognisers on data that the run never saw: other data sets, published pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from rlsyn_jax.data.identity_dataset import IdentityDataset
from rlsyn_jax.data.verification_sources import check_verification_source
from rlsyn_jax.stages.inputs import load_searched, searched_source
from rlsyn_jax.stages.recognition_measures import measure_recognition
from rlsyn_jax.stages.recorded_config import recorded_config
from rlsyn_jax.stages.stage_record import stage_seconds
from rlsyn_jax.stages.verification_sets import measure_verification_sets


def recognizers_config(workdir: str | Path, arms: Sequence[str] = ()) -> ConfigDict:
    """Returns the configuration that a run's recognisers were trained with.

    Args:
        workdir: of the run.
        arms: some of the run's, in the order in which they are to be shown; () = all.

    Returns:
        The configuration, whose arms and seeds are those to measure.

    Raises:
        ValueError: the folder holds no finished recognisers, or has no such arm.
    """
    workdir = Path(workdir)
    if not (workdir / "recognize" / "stage.json").is_file():
        raise ValueError(f"{workdir} is not the folder of a run with recognisers")
    if stage_seconds(workdir, "recognize") is None:
        raise ValueError(f"{workdir}: recognisers are not complete; go on with the run first")
    folders = sorted(path for path in (workdir / "recognize" / "seed_0").glob("*") if path.is_dir())
    if not folders:
        raise ValueError(f"{workdir} has no recogniser yet; run the stage recognize")
    config = recorded_config(folders[0])
    unknown = sorted(set(arms) - set(config.recognize.arms))
    if unknown:
        raise ValueError(
            f"{workdir} has no arm {', '.join(unknown)}; its arms are "
            f"{', '.join(config.recognize.arms)}"
        )
    if arms:
        config.recognize.arms = tuple(arms)
    return config


def measure_on_other_data(
    config: ConfigDict, workdir: str | Path, data: Sequence[str], verification_sets: Sequence[str]
) -> tuple[dict, list[tuple[str, dict, IdentityDataset]]]:
    """Measures a run's recognisers on data sets and on published pairs.

    Args:
        config: as `recognizers_config` returns it.
        workdir: of the run.
        data: data sets as SOURCE:PATH, of which the published query and gallery are ranked, or all
            people where there are none.
        verification_sets: as `data/verification_sources.py` names them.

    Returns:
        ({"run", "data": {name: {"people", "queries", "gallery", "arms", "differences",
        "not_measured"}}, "verification_sets": as `measure_verification_sets` returns it}; for the
        pictures of each data set its name, what `curves.json` has of a run, and its images).

    Raises:
        ValueError: a data set that is not known, not there or cannot be searched.
    """
    workdir = Path(workdir)
    for source in verification_sets:
        check_verification_source(source)
    sources = {each: searched_source(config, each) for each in data}
    content: dict = {"run": config.name, "data": {}}
    pictures = []
    for each, source in sources.items():
        dataset, splits = load_searched(source, workdir)
        measured, curves, _ = measure_recognition(config, workdir, dataset, splits)
        content["data"][each] = {
            "people": len(splits.open_identities),
            "queries": len(splits.open_query),
            "gallery": len(splits.open_gallery),
            **measured,
        }
        pictures.append((each, curves, dataset))
    content["verification_sets"] = measure_verification_sets(
        config,
        workdir,
        sources=verification_sets,
        arms=config.recognize.arms,
        seeds=config.recognize.seeds,
    )
    return content, pictures
