"""The command `privacy`: embeddings of synthetic, training and held-out images in files."""

from __future__ import annotations

from pathlib import Path

from rlsyn_jax.evaluation.array_checks import checked_embeddings, checked_images, checked_labels
from rlsyn_jax.evaluation.array_files import load_arrays
from rlsyn_jax.evaluation.measured import Measured, share_text
from rlsyn_jax.evaluation.privacy.leakage_figures import FALSE_ACCEPT_RATES
from rlsyn_jax.evaluation.privacy.released_set import (
    SPACES,
    ImageSet,
    ReleasedSet,
    measure_released_set,
)
from rlsyn_jax.report.privacy_page import ShownPair, privacy_page

_SHOWN_PAIRS = 10


def add_command(commands) -> None:
    """Adds the command to subparsers of argparse."""
    parser = commands.add_parser(
        "privacy", help="near copies, identity leakage and repeats of synthetic images"
    )
    parser.add_argument("--synthetic", required=True, type=Path)
    parser.add_argument("--train", required=True, type=Path)
    parser.add_argument("--held_out", required=True, type=Path)
    parser.add_argument(
        "--quantile", type=float, default=0.05, help="of real distances; nearer is a copy"
    )
    parser.add_argument(
        "--false_accept_rates", nargs="+", type=float, default=list(FALSE_ACCEPT_RATES)
    )
    parser.add_argument(
        "--duplicates", type=int, default=4, help="of a person's images that are a repeat"
    )
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    parser.set_defaults(measure=measure)


def measure(options) -> Measured:
    """Reads the files and measures what the synthetic images give away.

    Args:
        options: synthetic, train and held_out (paths), quantile, false_accept_rates, duplicates and
            resamples.

    Returns:
        What is printed and written.

    Raises:
        ValueError: bad files or arrays. OSError: a file that cannot be read.
    """
    synthetic, train, held_out = map(_load, (options.synthetic, options.train, options.held_out))
    released = measure_released_set(
        synthetic,
        train,
        held_out,
        quantile=options.quantile,
        false_accept_rates=options.false_accept_rates,
        min_duplicates=options.duplicates,
        num_resamples=options.resamples,
    )

    def page() -> str:
        distances = {}
        if "embeddings" in released.memorisation:
            found = released.memorisation["embeddings"]
            distances = {
                "other real images of them": found.held_out_distances,
                "synthetic images": found.distances,
            }
        return privacy_page(
            released.metrics,
            distances,
            _pairs(released, synthetic, train),
            subtitle=f"{len(synthetic):,} synthetic, {len(train):,} training and "
            f"{len(held_out):,} held-out images",
        )

    return Measured(released.metrics, _rows(released.metrics), page)


def _load(path: Path) -> ImageSet:
    arrays = load_arrays(path, ("embeddings", "ids"), optional=("images",))
    number = len(checked_embeddings(f"{path}: embeddings", arrays["embeddings"]))
    arrays["ids"] = checked_labels(f"{path}: ids", arrays["ids"], number)
    if arrays["ids"].min() < 0:
        raise ValueError(
            f"{path}: ids must be 0 or more, got {arrays['ids'].min()}; images of nobody in "
            "particular are left out"
        )
    if "images" in arrays:
        checked_images(f"{path}: images", arrays["images"], number)
    return ImageSet(**arrays)


def _pairs(released: ReleasedSet, synthetic: ImageSet, train: ImageSet):
    """Returns groups of the closest pairs in each space, and of what was extracted."""
    if synthetic.images is None or train.images is None:
        return []
    groups = []
    for space in released.memorisation:
        result = released.metrics["memorisation"][space]["synthetic"]
        groups.append(
            (
                f"The closest in {space}",
                [
                    ShownPair(
                        synthetic.images[pair["synthetic_image"]],
                        train.images[pair["train_image"]],
                        f"{pair['distance']:.3f}",
                        pair["distance"] < result["threshold"],
                    )
                    for pair in result["closest"][:_SHOWN_PAIRS]
                ],
            )
        )
    extracted = released.metrics["extraction"].get("synthetic", {}).get("extracted")
    if extracted:
        groups.append(
            (
                "Training images that come out again and again",
                [
                    ShownPair(
                        synthetic.images[one["sample"]],
                        train.images[one["real"]],
                        f"{one['num_duplicates']} times",
                        True,
                    )
                    for one in extracted[:_SHOWN_PAIRS]
                ],
            )
        )
    return groups


def _rows(metrics: dict) -> list[tuple[str, str]]:
    rows = [("near copies (%)", "")]
    for space in SPACES:
        result = metrics["memorisation"][space]
        text = _reason(result)
        if not text:
            found = result["synthetic"]
            text = (
                f"{_share(found['share'])}, {found['num_near_copies']} images; new photographs: "
                f"{100 * found['expected_share']:g}"
            )
            if found["nearer_to_training"]:
                text += (
                    f"; nearer than as many held-out ones: {_share(found['nearer_to_training'])}, "
                    "new photographs: 50"
                )
        rows.append((f"  {space}", text))
    leakage = metrics["identity_leakage"]
    if "not_measured" in leakage:
        rows.append(("identity leakage (%)", _reason(leakage)))
    else:
        for rate in sorted(leakage, key=float, reverse=True):
            rows.append((f"identity leakage at FAR {rate} (%)", _reason(leakage[rate])))
            for name in ("synthetic", "held_out"):
                for whom, figures in leakage[rate].get(name, {}).items():
                    rows.append(
                        (
                            f"  {name}, {'own' if whom == 'own' else 'another'} person",
                            f"{_share(figures['rate'])}, chance {_share(figures['chance'])}, "
                            f"corrected {_share(figures['corrected'])}",
                        )
                    )
    result = metrics["extraction"]
    text = _reason(result)
    if not text:
        found = result["synthetic"]
        text = f"{_share(found['share'])}, groups of repeats: {found['num_groups']}"
        if found["chance"]:
            text += f"; held-out images: {_share(found['chance'])}"
    rows.append(("training images extracted (%)", text))
    return rows


def _reason(result: dict) -> str:
    return f"not measured: {result['not_measured']}" if "not_measured" in result else ""


def _share(figure: dict) -> str:
    return share_text(figure, middle="mean")
