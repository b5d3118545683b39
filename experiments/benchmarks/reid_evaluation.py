"""What it takes to measure a ranking of Market-1501's size, over torchreid's compiled evaluation.

    pip install --no-deps pyppbox-torchreid
    python experiments/benchmarks/reid_evaluation.py --re_ranking

Both sides go from 3,368 query and 15,913 gallery embeddings of 2,048 random numbers around a centre
for each person to mAP and CMC, by turns: ours by evaluate_ranking, torchreid's as its test engine
does it, cosine distances of all pairs, an argsort, and its Cython loop over queries, taken from the
package pyppbox-torchreid, a build of it. Where that is not installed, a port of that loop to NumPy,
line by line, stands in, and "baseline" says so. Sizes are fields, for a look at smaller ones.

The last line is JSON: speed_over_torchreid = median of torchreid's time / our time, above 1 where
ours is faster; ranking_speed_over_torchreid is the same where the distances are there already;
map_difference is between the two; peak_gib and torchreid_peak_gib are the most memory of a process
that does nothing but one evaluation, re_ranking_peak_gib of one with k-reciprocal re-ranking.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rlsyn_jax.evaluation.re_ranking import re_rank
from rlsyn_jax.evaluation.reid import evaluate_distances, evaluate_ranking

PEOPLE, CAMERAS, MAX_RANK = 750, 6, 50


def make_problem(num_queries: int, num_gallery: int, width: int) -> tuple:
    """Returns query, ids, cameras, gallery, ids, cameras; a sixth of the gallery distractors."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(PEOPLE + 1, width)).astype(np.float32)

    def part(count, lowest):
        ids = random.integers(lowest, PEOPLE + 1, count)
        ids[: count // 6 * (1 - lowest)] = 0
        noise = random.normal(size=(count, width)).astype(np.float32)
        return centres[ids] + 3 * noise, ids, random.integers(0, CAMERAS, count)

    return *part(num_queries, 1), *part(num_gallery, 0)


def compiled_evaluation() -> Callable | None:
    """Returns torchreid's Cython function, without importing the rest of the package, or None."""
    package = importlib.util.find_spec("pyppbox_torchreid")
    if package is None:
        return None
    folder = Path(package.submodule_search_locations[0]) / "metrics" / "rank_cylib"
    file = next(folder.glob("rank_cy.*.so"), None)
    if file is None:
        return None
    spec = importlib.util.spec_from_file_location("rank_cy", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.evaluate_cy


def ported_evaluation(distances, query_ids, gallery_ids, query_cameras, gallery_cameras, max_rank):
    """Market-1501's measure as torchreid's loop computes it, a query at a time."""
    order = np.argsort(distances, axis=1)
    matches = gallery_ids[order] == query_ids[:, None]
    cmcs, precisions = [], []
    for query in range(len(distances)):
        kept = ~(matches[query] & (gallery_cameras[order[query]] == query_cameras[query]))
        found = matches[query][kept]
        if not found.any():
            continue
        cumulated = found.cumsum()
        cmcs.append(np.minimum(cumulated[:max_rank], 1))
        precisions.append((cumulated / np.arange(1, len(found) + 1))[found].mean())
    return np.mean(cmcs, axis=0), np.mean(precisions)


def torchreid(evaluation: Callable, problem: tuple) -> tuple[float, float]:
    """Returns mAP as torchreid's engine computes it, and the seconds without distances."""
    query, query_ids, query_cameras, gallery, gallery_ids, gallery_cameras = problem
    query = query / np.linalg.norm(query, axis=1, keepdims=True)
    gallery = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    distances = 1 - query @ gallery.T
    started = time.perf_counter()
    _, precision = evaluation(
        distances, query_ids, gallery_ids, query_cameras, gallery_cameras, MAX_RANK
    )
    return precision, time.perf_counter() - started


def alone(sizes: tuple, side: str) -> tuple[float, float, float]:
    """Evaluates once; returns (peak GiB of this process, of which the inputs, seconds)."""
    problem = make_problem(*sizes)
    inputs = (problem[0].nbytes + problem[3].nbytes) / 2**30
    started = time.perf_counter()
    if side == "re_ranking":
        distances = re_rank(problem[0], problem[3])
        evaluate_distances(distances, *problem[1:3], *problem[4:], max_rank=MAX_RANK)
    elif side == "torchreid":
        torchreid(compiled_evaluation() or ported_evaluation, problem)
    else:
        evaluate_ranking(*problem, max_rank=MAX_RANK)
    seconds = time.perf_counter() - started
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, inputs, seconds


def main() -> None:
    """Measures and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=3368)
    parser.add_argument("--gallery", type=int, default=15913)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--re_ranking", action="store_true")
    arguments = parser.parse_args()
    sizes = arguments.queries, arguments.gallery, arguments.width
    summary = {}
    # Each in a process of its own, so that nothing else counts.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peak, inputs, seconds = pool.apply(alone, (sizes, "ours"))
        summary |= {"peak_gib": peak, "inputs_gib": inputs, "seconds": seconds}
        summary["torchreid_peak_gib"] = pool.apply(alone, (sizes, "torchreid"))[0]
        if arguments.re_ranking:
            peak, _, seconds = pool.apply(alone, (sizes, "re_ranking"))
            summary |= {"re_ranking_peak_gib": peak, "re_ranking_seconds": seconds}
    compiled = compiled_evaluation()
    summary["baseline"] = "torchreid's Cython" if compiled else "NumPy port of torchreid's Cython"
    problem = make_problem(*sizes)
    distances = -(problem[0] @ problem[3].T)
    ratios, ranking_ratios, differences = [], [], []
    for _ in range(arguments.repeats):
        started = time.perf_counter()
        ours = evaluate_ranking(*problem, max_rank=MAX_RANK).mean_average_precision
        middle = time.perf_counter()
        theirs, ranking = torchreid(compiled or ported_evaluation, problem)
        end = time.perf_counter()
        ratios.append((end - middle) / (middle - started))
        evaluate_distances(distances, *problem[1:3], *problem[4:], max_rank=MAX_RANK)
        ranking_ratios.append(ranking / (time.perf_counter() - end))
        differences.append(abs(ours - theirs))
    summary |= {
        "mean_average_precision": ours,
        "map_difference": float(max(differences)),
        "ranking_speed_over_torchreid": statistics.median(ranking_ratios),
        "speed_over_torchreid": statistics.median(ratios),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
