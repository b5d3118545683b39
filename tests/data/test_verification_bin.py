"""The .bin sets as both Pythons write them; pickles that ask for code are refused, unrun."""

import io
import os
import pickle
import pickletools
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from rlsyn_jax.data import restricted_pickle
from rlsyn_jax.data.verification_bin import read_verification_bin

ANSWERS = [True, False, True]


def encoded(value, size=(6, 6), noise=False):
    pixels = np.full((*size, 3), value, np.uint8)
    if noise:  # Above 255 bytes, so that the longer instructions are used.
        pixels ^= np.random.default_rng(value).integers(0, 4, pixels.shape, np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


IMAGES = [encoded(10 * place, noise=place > 3) for place in range(6)]


def read(path, **options):
    return read_verification_bin(path, **{"image_size": 6, "channels": 3} | options)


def check(result):
    np.testing.assert_array_equal(result.first, [0, 2, 4])
    np.testing.assert_array_equal(result.second, [1, 3, 5])
    np.testing.assert_array_equal(result.is_same, ANSWERS)
    expected = [np.asarray(Image.open(io.BytesIO(image))) for image in IMAGES]
    np.testing.assert_array_equal(result.images, expected)
    assert result.name == "lfw" and result.num_folds == 3


def as_python_2(images, answers):
    """What Python 2's cPickle writes in protocol 2: byte strings, kept values of one byte."""
    content = b"\x80\x02]q\x01("
    for place, image in enumerate(images, start=2):
        short = len(image) < 256
        length = struct.pack("<B" if short else "<i", len(image))
        content += (b"U" if short else b"T") + length + image + b"q" + bytes([place])
    content += b"e]q\x40(" + b"".join(b"\x88" if answer else b"\x89" for answer in answers)
    return content + b"e\x86q\x41."


def as_python_2_arrays(images, answers):
    """The same with NumPy's arrays, as cv2.imencode gives them."""
    content = b"\x80\x02]q\x01("
    for image in images:
        content += (
            b"cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b"
            b"\x87Rq\x04(K\x01M" + struct.pack("<H", len(image)) + b"\x85cnumpy\ndtype\nq\x05U"
            b"\x02u1K\x00K\x01\x87Rq\x06(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            b"\x89T" + struct.pack("<i", len(image)) + image + b"tb"
        )
    content += b"e]q\x40(" + b"".join(b"\x88" if answer else b"\x89" for answer in answers)
    return content + b"e\x86q\x41."


@pytest.mark.parametrize("write", [as_python_2, as_python_2_arrays])
def test_what_python_2_wrote_is_read(tmp_path, write):
    content = write(IMAGES, ANSWERS)
    oracle = pickle.loads(content, encoding="bytes")
    assert [bytes(image) for image in oracle[0]] == IMAGES and oracle[1] == ANSWERS
    (tmp_path / "lfw.bin").write_bytes(content)
    check(read(tmp_path / "lfw.bin"))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "image_as",
    [bytes, lambda i: np.frombuffer(i, np.uint8), lambda i: np.array([*i], "u1")[:, None]],
)
@pytest.mark.parametrize(
    "answers",
    [
        ANSWERS,
        tuple(ANSWERS),
        [1, 0, 1],
        np.array(ANSWERS),
        np.array([1, 0, 1]),
        [*np.array(ANSWERS)],
    ],
)
def test_every_protocol_and_kind_of_list_is_read(tmp_path, protocol, image_as, answers):
    content = pickle.dumps(([image_as(image) for image in IMAGES], answers), protocol)
    (tmp_path / "lfw.bin").write_bytes(content)
    check(read(tmp_path / "lfw.bin"))


def test_images_of_another_size_and_in_a_list_of_lists(tmp_path):
    images = [encoded(50, (12, 6)), encoded(60, (6, 12))] * 2
    (tmp_path / "a.bin").write_bytes(pickle.dumps([images, [False, True]]))
    result = read(tmp_path / "a.bin", channels=1)
    # What the pickle holds twice is decoded once.
    assert result.images.shape == (2, 6, 6, 1)
    np.testing.assert_array_equal(result.images[:, 3, 3, 0], [50, 60])
    assert result.first.tolist() == [0, 0] and result.second.tolist() == [1, 1]


class Attack:
    """Would make a file if anything ran it."""

    def __init__(self, how):
        self.how = how

    def __reduce__(self):
        return self.how


def attacks(target):
    command = f"touch {target}"
    yield Attack((os.system, (command,)))
    yield Attack((eval, (f"__import__('os').system({command!r})",)))
    yield Attack((exec, (f"import os; os.system({command!r})",)))
    yield Attack((np.load, (str(target),)))
    yield Attack((np.save, (str(target), 1)))
    yield Attack((os.mkdir, (str(target),)))
    yield Attack((open, (str(target), "w")))


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path):
    target = tmp_path / "made"
    for protocol in (2, 4, 5):
        for attack in attacks(target):
            for content in (attack, (attack, [True]), ([attack, IMAGES[0]], [True])):
                (tmp_path / "a.bin").write_bytes(pickle.dumps(content, protocol))
                with pytest.raises(ValueError, match="a.bin is no pickle of images alone.* the na"):
                    read(tmp_path / "a.bin")
    assert not target.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'touch made'\ntR.",  # Protocol 0.
        b"(S'touch made'\nios\nsystem\n.",  # INST.
        b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7ft\x81.",  # NEWOBJ.
        b"\x80\x02\x82\x01.",  # The extension registry.
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nM\xff\xff\x85K\x01\x87R.",
        b"\x80\x02cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R.",
        b"\x80\x02cnumpy\nndarray\nK\x05\x85R.",  # A call of the type.
        b"\x80\x02Q.",  # A persistent name.
    ],
)
def test_other_instructions_are_refused(tmp_path, content):
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.bin"):
        read(tmp_path / "a.bin")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "byte 0 holds the end of the file"),
        (b"\x80\x02C\xf0abc.", "byte 2 holds a string of 240 bytes; the file ends at 8"),
        (b"\x80\x04\x8e" + b"\xff" * 8 + b".", "a string of 18446744073709551615 bytes"),
        (b"\x80\x02r\xff\xff\xff\xff.", "takes from an empty stack"),
        (b"\x80\x02]r\xff\xff\xff\xff.", "does not hold two things"),
        (b"\x80\x02\x8a\xff" + b"\x01" * 255 + b".", "a number of 255 bytes"),
        (b"\x80\x02L" + b"9" * 100 + b"L\n.", "byte 2 holds the number"),
        (b"\x80\x02L" + b"9" * 5000, "byte 2 holds a name or number without end"),
        (b"\x80\x02h\x07.", "a value 7 that was not kept"),
        (b"\x80\x02e.", "an end without a beginning"),
        (b"\x80\x02(NNe.", "an instruction that needs a list"),
        (b"\x80\x02]q\x00h\x00ah\x00\x86.", "truth values of .* 0 is a list"),  # Holds itself.
        (pickle.dumps(IMAGES), "does not hold two things"),
        (pickle.dumps((IMAGES, ANSWERS[:2])), "holds 6 images and 2 truth values"),
        (pickle.dumps((IMAGES, [1, 0, 2])), "truth values of .* are none: 2 is 2"),
        (pickle.dumps((IMAGES, [b"1", b"0", b"1"])), "truth values of .* are none: 0 is a Stored"),
        (pickle.dumps((IMAGES, None)), "truth values of .* are none: they are no list"),
        (pickle.dumps((IMAGES, np.array([1.0, 0.0, 1.0]))), "an array of f8; expected whole"),
        (pickle.dumps((None, ANSWERS)), "holds no list of images"),
        (pickle.dumps(([1] * 6, ANSWERS)), "Image 0 of .* is neither bytes nor an array"),
        (pickle.dumps(([np.arange(3)] * 6, ANSWERS)), "Image 0 of .* is neither bytes nor"),
        (pickle.dumps(([*IMAGES[:5], b"jpeg"], ANSWERS)), "Image 5 of .* cannot be read"),
        (pickle.dumps(([*IMAGES[:5], b""], ANSWERS)), "Image 5 of .* is empty"),
        (pickle.dumps((IMAGES, [True] * 3)), "all 3 pairs are of one person; expected both"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, content, message):
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path / "a.bin")
    assert "a.bin" in str(error.value) or "a:" in str(error.value)


def test_an_array_is_not_larger_than_its_bytes(tmp_path):
    array = pickle.dumps(([np.zeros(5, np.uint8)] * 6, ANSWERS), 2)
    assert array.count(b"K\x05\x85") == 1
    for shape, message in (
        (b"K\x06\x85", "Image 0 of .*an array of shape"),
        (b"\x8a\x04" + b"\x7f" * 4 + b"\x85", "Image 0 of .*an array of shape"),
        (b"\x8a\x08" + b"\x7f" * 8 + b"\x85", "an array of no shape"),
    ):
        (tmp_path / "a.bin").write_bytes(array.replace(b"K\x05\x85", shape))
        with pytest.raises(ValueError, match=message):
            read(tmp_path / "a.bin")


def test_an_image_that_is_kept_and_named_again_takes_no_more_memory(tmp_path):
    kept = b"C" + bytes([len(IMAGES[0])]) + IMAGES[0] + b"q\x00"
    answers = b"](" + b"\x88\x89" * 10_000 + b"e"
    (tmp_path / "a.bin").write_bytes(
        b"\x80\x03](" + kept + b"h\x00" * 39_999 + b"e" + answers + b"\x86."
    )
    result = read(tmp_path / "a.bin", image_size=112)
    assert result.images.shape == (1, 112, 112, 3) and len(result.first) == 20_000


def test_values_that_are_endless_to_print_are_named_by_their_kind(tmp_path):
    images = b"](" + b"".join(b"C" + bytes([len(i)]) + i for i in IMAGES[:2]) + b"e"
    tree = b")q\x00" + b"0h\x00h\x00\x86q\x00" * 60  # 2**60 leaves.
    (tmp_path / "a.bin").write_bytes(b"\x80\x03" + images + b"](" + tree + b"e\x86.")
    with pytest.raises(ValueError, match="truth values of .* 0 is a tuple"):
        read(tmp_path / "a.bin")


def test_many_instructions_end(tmp_path, monkeypatch):
    monkeypatch.setattr(restricted_pickle, "_MOST_INSTRUCTIONS", 1000)
    (tmp_path / "a.bin").write_bytes(b"\x80\x02" + b"]" * 2000)
    with pytest.raises(ValueError, match="more than 1000 instructions"):
        read(tmp_path / "a.bin")


def test_images_stay_in_the_file_until_they_are_decoded(tmp_path):
    large = encoded(7) + bytes(2**20)  # What follows a PNG's end is not looked at.
    content = pickle.dumps(([large + bytes([place]) for place in range(20)], [True, False] * 5))
    (tmp_path / "a.bin").write_bytes(content)
    del content
    tracemalloc.start()
    assert len(read(tmp_path / "a.bin").images) == 20
    assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    tracemalloc.stop()


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.binary(max_size=300)),
    lambda children: st.one_of(
        st.lists(children, max_size=5), st.lists(children, max_size=4).map(tuple)
    ),
    max_leaves=15,
)


def resolved(value, file):
    if isinstance(value, list | tuple):
        return type(value)(resolved(item, file) for item in value)
    return value.read(file) if isinstance(value, restricted_pickle.Stored) else value


@settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))
@given(value=values, protocol=st.sampled_from([2, 3, 4, 5]), optimised=st.booleans())
@example(value=[b"\xff" * 300, b""], protocol=2, optimised=False)
def test_plain_values_are_what_pythons_own_machine_gives(
    tmp_path_factory, value, protocol, optimised
):
    path = tmp_path_factory.mktemp("p") / "a"
    content = pickle.dumps(value, protocol)
    path.write_bytes(pickletools.optimize(content) if optimised else content)
    empty = protocol == 2 and b"c__builtin__\nbytes" in content
    with open(path, "rb") as file:
        if empty:  # Protocol 2 has no empty bytes: it calls their type, and no image is empty.
            with pytest.raises(ValueError, match="the name __builtin__.bytes"):
                restricted_pickle.read_restricted_pickle(file, "a")
        else:
            assert resolved(restricted_pickle.read_restricted_pickle(file, "a"), file) == value


CONTENTS = [
    as_python_2(IMAGES, ANSWERS),
    as_python_2_arrays(IMAGES, ANSWERS),
    *(pickle.dumps((IMAGES, ANSWERS), protocol) for protocol in (2, 4)),
    *(
        pickle.dumps(([np.frombuffer(i, np.uint8) for i in IMAGES], np.array(ANSWERS)), protocol)
        for protocol in (2, 5)
    ),
]


def _survives(path, content):
    path.write_bytes(content)
    try:
        assert len(read(path).images) <= 50
    except ValueError as error:
        assert "a.bin" in str(error) or str(error).startswith("a:")


@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(data=st.data(), content=st.sampled_from(CONTENTS))
def test_damaged_files_end_in_plain_words(tmp_path, damages, data, content):
    _survives(tmp_path / "a.bin", data.draw(damages)(content))


@pytest.mark.slow
def test_damaged_files_end_in_plain_words_in_many_cases(tmp_path, damaged):
    for seed in range(40_000):
        _survives(tmp_path / "a.bin", damaged(CONTENTS[seed % len(CONTENTS)], seed))


@pytest.mark.slow
def test_any_instructions_end_in_plain_words(tmp_path):
    pieces = [bytes([code]) for code in range(256)]
    pieces += 20 * [b"]q\x01", b"h\x01", b"K\x01", b"C\x01a", b"(", b"t", b"R", b"b", b"e", b"\x86"]
    pieces += 10 * [b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\ndtype\n", b"X\x02\0\0\0u1"]
    for seed in range(40_000):
        random = np.random.default_rng(seed)
        chosen = random.integers(len(pieces), size=random.integers(30))
        content = b"\x80\x04" + b"".join(pieces[i] for i in chosen) + b"."
        _survives(tmp_path / "a.bin", content)
