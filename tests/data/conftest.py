"""Generated damage to files: cut off, bytes changed, parts repeated, left out or put in."""

import numpy as np
import pytest
from hypothesis import strategies as st

_EDGES = (b"", b"\x00", b"\xff", b"\xff\xff\xff\xff", b"\x7f" * 8, b"\n", b"\t", b"9" * 30, b"-1")


@pytest.fixture(scope="session")
def damages():
    """A strategy of functions from bytes to damaged bytes."""
    place = st.floats(0, 1, exclude_max=True)
    cut = st.tuples(st.just("cut"), place, st.just(b""), st.just(0))
    put = st.tuples(
        st.just("put"), place, st.one_of(st.sampled_from(_EDGES), st.binary(max_size=6)), st.just(0)
    )
    overwrite = st.tuples(
        st.just("over"),
        place,
        st.one_of(st.sampled_from(_EDGES), st.binary(min_size=1, max_size=8)),
        st.just(0),
    )
    repeat = st.tuples(st.just("repeat"), place, st.just(b""), st.integers(1, 64))
    drop = st.tuples(st.just("drop"), place, st.just(b""), st.integers(1, 64))
    steps = st.lists(
        st.one_of(overwrite, overwrite, put, cut, repeat, drop), min_size=1, max_size=4
    )
    return steps.map(lambda steps: lambda content: _damaged(content, steps))


@pytest.fixture(scope="session")
def damaged():
    """The same by a seed, quick enough for very many cases: damaged(content, seed)."""
    kinds = ("over", "over", "put", "cut", "repeat", "drop")

    def damage(content, seed):
        random = np.random.default_rng(seed)
        steps = []
        for _ in range(random.integers(1, 5)):
            new = _EDGES[random.integers(len(_EDGES))]
            if random.random() < 0.5:
                new = random.bytes(random.integers(1, 8))
            steps.append((kinds[random.integers(6)], random.random(), new, random.integers(1, 65)))
        return _damaged(content, steps)

    return damage


def _damaged(content, steps):
    for kind, share, new, length in steps:
        at = int(share * len(content))
        if kind == "cut":
            content = content[:at]
        elif kind == "put":
            content = content[:at] + new + content[at:]
        elif kind == "over":
            content = content[:at] + new + content[at + len(new) :]
        elif kind == "repeat":
            content = content[: at + length] + content[at:]
        else:
            content = content[:at] + content[at + length :]
    return content
