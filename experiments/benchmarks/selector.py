"""Is the nearest-embedding selector's search as fast as faiss, and does a million fit in memory?

    pip install -e '.[bench]'
    python experiments/benchmarks/selector.py            # 100,000 synthetic x 10,000 real
    python experiments/benchmarks/selector.py --full     # 1,000,000 synthetic x 100,000 real

Embeddings are random people with random images of 512 numbers. Speed: the exact search of the
nearest real embedding (cosine and index) for chunks of the synthetic ones, by turns with
IndexFlatIP of faiss-cpu at as many threads; ours makes unit rows of a chunk and places all real
ones anew each time, faiss's index is filled beforehand. Memory: one selection of all in a process
that does nothing else, its inputs counted in.

The last line is JSON: search_speed_over_faiss = median of faiss's time / our time, above 1 where
ours is faster; largest_difference of cosines and share of equal_indices between the two; peak_gib,
of which inputs_gib, and selection_seconds, of the selection of all.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import time

import numpy as np

from rlsyn_jax.selection.nearest_embedding import nearest_real, select

PAUSE = 0.5  # Seconds before a turn, in which the threads of the one before stop to look for work.


def make_embeddings(number: int, people: int, width: int, seed: int) -> np.ndarray:
    """Returns float32 [number, width]: people's centres, the same for every seed, and noise."""
    centres = np.random.default_rng(0).standard_normal((people, width), np.float32)
    random = np.random.default_rng(seed)
    embeddings = np.empty((number, width), np.float32)
    for start in range(0, number, 65536):
        rows = embeddings[start : start + 65536]
        random.standard_normal(dtype=np.float32, out=rows)
        rows += centres[random.integers(0, people, len(rows))]
    return embeddings


def select_alone(sizes: tuple, num_selected: int) -> tuple[float, float, float]:
    """Selects once; returns (peak GiB of this process, of which the inputs, seconds)."""
    num_synthetic, num_real, people, width = sizes
    synthetic = make_embeddings(num_synthetic, people, width, 1)
    real = make_embeddings(num_real, people, width, 2)
    inputs = (synthetic.nbytes + real.nbytes) / 2**30
    started = time.perf_counter()
    select(synthetic, real, num_selected)
    seconds = time.perf_counter() - started
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, inputs, seconds


def main() -> None:
    """Measures and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="1e6 x 1e5 instead of 1e5 x 1e4")
    parser.add_argument("--synthetic", type=int, help="synthetic embeddings, instead")
    parser.add_argument("--real", type=int, help="real embeddings, instead")
    parser.add_argument("--people", type=int, default=1000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--num_selected", type=int, default=100)
    parser.add_argument("--chunk", type=int, default=16384, help="synthetic embeddings of a turn")
    parser.add_argument("--repeats", type=int, default=9, help="turns")
    arguments = parser.parse_args()
    num_synthetic, num_real = (10**6, 10**5) if arguments.full else (10**5, 10**4)
    num_synthetic = arguments.synthetic or num_synthetic
    num_real = arguments.real or num_real
    summary = {"synthetic": num_synthetic, "real": num_real, "width": arguments.width}

    import faiss

    threads = len(os.sched_getaffinity(0))
    faiss.omp_set_num_threads(threads)
    real = make_embeddings(num_real, arguments.people, arguments.width, 2)
    index = faiss.IndexFlatIP(arguments.width)
    index.add(real / np.linalg.norm(real, axis=1, keepdims=True))
    chunks = make_embeddings(
        arguments.chunk * (arguments.repeats + 1), arguments.people, arguments.width, 1
    ).reshape(-1, arguments.chunk, arguments.width)
    ratios, differences, equal = [], [], []
    for turn, chunk in enumerate(chunks):
        unit = chunk / np.linalg.norm(chunk, axis=1, keepdims=True)
        time.sleep(PAUSE)
        started = time.perf_counter()
        cosine, nearest = nearest_real(chunk, real)
        ours = time.perf_counter() - started
        time.sleep(PAUSE)
        started = time.perf_counter()
        expected, expected_nearest = index.search(unit, 1)
        theirs = time.perf_counter() - started
        differences.append(np.abs(cosine - expected[:, 0]).max())
        equal.append((nearest == expected_nearest[:, 0]).mean())
        if turn:  # The first one compiles.
            ratios.append(theirs / ours)
            print(f"ours {ours:.2f} s, faiss {theirs:.2f} s", flush=True)
    # In a process of its own, so that nothing else counts.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        sizes = num_synthetic, num_real, arguments.people, arguments.width
        peak, inputs, seconds = pool.apply(select_alone, (sizes, arguments.num_selected))
    summary |= {
        "threads": threads,
        "largest_difference": float(max(differences)),
        "equal_indices": float(np.mean(equal)),
        "selected": arguments.num_selected,
        "selection_seconds": round(seconds, 1),
        "inputs_gib": round(inputs, 2),
        "peak_gib": round(peak, 2),
        "search_speed_over_faiss": round(statistics.median(ratios), 3),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
