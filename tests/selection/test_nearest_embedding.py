"""The nearest-embedding selector against a plain NumPy greedy loop, its limits and its errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsyn_jax.selection.nearest_embedding import select, select_per_identity


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def brute_scores(synthetic, real, picked, trade_off):
    """Score of every candidate given the picks so far, one candidate at a time, float64 [n]."""
    synthetic, real = unit(synthetic), unit(real)
    scores = []
    for index, candidate in enumerate(synthetic):
        if index in picked:
            scores.append(-np.inf)
            continue
        closeness = max(candidate @ reference for reference in real)
        if not picked:
            scores.append(closeness)
            continue
        distance = min(1 - candidate @ synthetic[other] for other in picked)
        scores.append(trade_off * closeness + (1 - trade_off) * distance)
    return np.array(scores)


def brute_greedy(synthetic, real, num_selected, trade_off):
    picked = []
    for _ in range(num_selected):
        picked.append(int(np.argmax(brute_scores(synthetic, real, picked, trade_off))))
    return picked


def draw(seed, n, m, d):
    generator = np.random.default_rng(seed)
    synthetic = generator.normal(size=(n, d)) * generator.uniform(0.1, 9.0, (n, 1))
    real = generator.normal(size=(m, d)) * generator.uniform(0.1, 9.0, (m, 1))
    return synthetic.astype(np.float32), real.astype(np.float32)


@pytest.mark.parametrize("trade_off", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_equals_brute_force(trade_off):
    for seed in range(12):
        synthetic, real = draw(seed, 14, 5, 8)
        picked = select(synthetic, real, 10, trade_off=trade_off)
        assert picked.tolist() == brute_greedy(synthetic, real, 10, trade_off), seed


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 9),
    m=st.integers(1, 4),
    d=st.integers(1, 4),
    block_size=st.integers(1, 4),
    trade_off=st.floats(0, 1),
    data=st.data(),
)
def test_every_pick_is_a_best_candidate(seed, n, m, d, block_size, trade_off, data):
    synthetic, real = draw(seed, n, m, d)
    num_selected = data.draw(st.integers(1, n))
    picked = select(synthetic, real, num_selected, trade_off=trade_off, block_size=block_size)
    picked = picked.tolist()
    assert len(set(picked)) == num_selected
    for step, index in enumerate(picked):
        scores = brute_scores(synthetic, real, picked[:step], trade_off)
        assert scores[index] >= scores.max() - 1e-5  # float32 cannot separate closer scores


def test_trade_off_one_ranks_by_closeness():
    synthetic, real = draw(3, 40, 7, 8)
    closeness = (unit(synthetic) @ unit(real).T).max(axis=1)
    picked = select(synthetic, real, 40, trade_off=1.0)
    np.testing.assert_array_equal(picked, np.argsort(-closeness))


def test_trade_off_zero_is_farthest_point_from_the_closest():
    synthetic, real = draw(4, 40, 7, 8)
    synthetic, real = unit(synthetic), unit(real)
    expected = [int((synthetic @ real.T).max(axis=1).argmax())]
    squared = ((synthetic[:, None] - synthetic[None]) ** 2).sum(axis=2)  # grows with 1 - cosine
    while len(expected) < 12:
        expected.append(int(squared[:, expected].min(axis=1).argmax()))
    assert select(synthetic, real, 12, trade_off=0.0).tolist() == expected


def test_blocks_do_not_change_the_result():
    synthetic, real = draw(5, 37, 23, 8)
    whole = select(synthetic, real, 20)
    for block_size in (1, 5, 23, 36, 37):
        np.testing.assert_array_equal(select(synthetic, real, 20, block_size=block_size), whole)


def test_padding_of_blocks_is_no_real_embedding():
    synthetic = np.array([[-1, 0.1], [-1, 0.5], [-1, 0.9]])  # every cosine to a real one is < 0
    real = np.array([[1, 0], [1, 0.1], [1, -0.1]])
    picked = select(synthetic, real, 3, trade_off=1.0, block_size=2)
    assert picked.tolist() == [2, 1, 0]
    identities = np.zeros(3, int)
    picked = select_per_identity(synthetic, identities, real, identities, 3, trade_off=1.0)
    assert picked.tolist() == [2, 1, 0]


def test_scale_and_dtype_do_not_matter():
    synthetic, real = draw(6, 20, 5, 8)
    whole = select(synthetic, real, 8)
    far = select(synthetic.astype(np.float64) * 1e200, real.astype(np.float64) * 1e-200, 8)
    np.testing.assert_array_equal(far, whole)
    assert whole.dtype == np.int32


def test_no_repeats_among_duplicates():
    synthetic, real = draw(7, 6, 3, 8)
    copies = np.concatenate([synthetic, synthetic])
    picked = select(copies, real, 12, trade_off=0.3)
    assert sorted(picked.tolist()) == list(range(12))
    assert len(set((picked[:6] % 6).tolist())) == 6  # a copy only once every original is in


def test_per_identity_equals_select_on_each_part():
    synthetic, real = draw(8, 21, 17, 8)
    generator = np.random.default_rng(0)
    synthetic_identities = generator.permutation(np.repeat([9, 2, 5], [3, 13, 5]))
    real_identities = generator.permutation(np.repeat([9, 2, 5, 7], [1, 6, 5, 5]))
    picked = select_per_identity(
        synthetic, synthetic_identities, real, real_identities, 4, trade_off=0.4
    )
    expected = []
    for identity, count in ((2, 4), (5, 4), (9, 3)):
        rows = np.flatnonzero(synthetic_identities == identity)
        part = real[real_identities == identity]
        expected.extend(rows[select(synthetic[rows], part, count, trade_off=0.4)])
    assert picked.tolist() == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_selected": 0}, "num_selected is 0"),
        ({"num_selected": 5}, r"must be in 1\.\.4"),
        ({"num_selected": 2.0}, "must be an integer"),
        ({"trade_off": -0.1}, "trade_off is -0.1"),
        ({"trade_off": 1.1}, "trade_off is 1.1"),
        ({"trade_off": float("nan")}, "trade_off is nan"),
        ({"block_size": 0}, "block_size is 0"),
        ({"synthetic": np.ones(3)}, r"synthetic has shape \(3,\)"),
        ({"real": np.ones((0, 3))}, r"real has shape \(0, 3\)"),
        ({"real": np.ones((2, 4))}, "width 3, real ones 4"),
        ({"real": [[1, 0, 0], [0, np.nan, 1]]}, "real has 1 rows .* row 1"),
        ({"synthetic": [[1, 0, np.inf]]}, "synthetic has 1 rows .* row 0"),
        ({"synthetic": np.zeros((1, 3))}, "zero or not finite"),
    ],
)
def test_select_errors(change, message):
    arguments = {"synthetic": np.eye(4, 3) + 1, "real": np.eye(2, 3), "num_selected": 2} | change
    with pytest.raises(ValueError, match=message):
        select(**arguments)


def test_per_identity_errors():
    synthetic, real = draw(9, 4, 3, 8)
    with pytest.raises(ValueError, match="first being 8"):
        select_per_identity(synthetic, [1, 8, 1, 1], real, [1, 1, 2], 2)
    with pytest.raises(ValueError, match="synthetic_identities has shape"):
        select_per_identity(synthetic, [1, 1, 1], real, [1, 1, 2], 2)
    with pytest.raises(ValueError, match="real_identities .* float64"):
        select_per_identity(synthetic, [1, 1, 1, 1], real, [1.0, 1.0, 2.0], 2)
    with pytest.raises(ValueError, match="num_selected is 0"):
        select_per_identity(synthetic, [1, 1, 1, 1], real, [1, 1, 2], 0)
