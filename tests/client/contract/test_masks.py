"""Every encoding of a mask is exact both ways and agrees with its reference library."""

import io
import json
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as coco

from ois_client.contract.errors import InvalidInput
from ois_client.contract.masks import (
    MaskFormat,
    check_mask,
    coco_of_mask,
    compress_counts,
    decode_mask,
    decompress_counts,
    encode_mask,
    mask_of_coco,
    mask_of_png,
    pack_mask,
    unpack_mask,
)

PROPERTY = settings(deadline=None, derandomize=True)

MASKS = st.one_of(
    hnp.arrays(
        np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements={"max_value": 1}
    ),
    st.builds(  # long runs, so that counts need several characters
        lambda h, w, a, b: ((np.arange(h * w) >= a) & (np.arange(h * w) < b)).reshape(h, w),
        st.integers(1, 300),
        st.integers(1, 300),
        st.integers(0, 90000),
        st.integers(0, 90000),
    ).map(lambda mask: mask.astype(np.uint8)),
)
CHECKERS = (np.indices((33, 17)).sum(axis=0) % 2).astype(np.uint8)
EDGES = [
    np.zeros((7, 5), dtype=np.uint8),
    np.ones((7, 5), dtype=np.uint8),
    np.ones((1, 1), dtype=np.uint8),
    np.arange(50, dtype=np.uint8)[None] % 2,
    1 - np.arange(50, dtype=np.uint8)[:, None] % 2,
    CHECKERS,
    1 - CHECKERS,
]


def reference(mask):
    encoded = coco.encode(np.asfortranarray(mask))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


@pytest.mark.parametrize("form", MaskFormat)
@settings(PROPERTY, max_examples=60)
@given(mask=MASKS)
@example(mask=EDGES[0])
@example(mask=EDGES[1])
@example(mask=EDGES[3])
@example(mask=EDGES[4])
def test_every_format_gives_the_same_mask_back(form, mask):
    height, width = mask.shape
    back = decode_mask(encode_mask(mask, form), form, width, height)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, mask)


@settings(PROPERTY, max_examples=150)
@given(mask=MASKS)
def test_coco_rle_is_byte_for_byte_what_pycocotools_writes(mask):
    ours = coco_of_mask(mask)
    assert ours == reference(mask)
    np.testing.assert_array_equal(mask_of_coco(reference(mask)), mask)
    np.testing.assert_array_equal(coco.decode(ours), mask)


@pytest.mark.parametrize("mask", EDGES)
def test_the_edge_cases_of_coco_rle(mask):
    assert coco_of_mask(mask) == reference(mask)
    np.testing.assert_array_equal(mask_of_coco(coco_of_mask(mask)), mask)


@settings(PROPERTY, max_examples=60)
@given(mask=MASKS)
def test_uncompressed_counts_are_read_by_pycocotools(mask):
    ours = coco_of_mask(mask, compressed=False)
    assert all(type(count) is int for count in ours["counts"])
    compressed = coco.frPyObjects(ours, *ours["size"])
    np.testing.assert_array_equal(coco.decode(compressed), mask)


@PROPERTY
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=30))
def test_counts_of_32_bits_survive_compression(values):
    counts = np.array(values, dtype=np.int64)
    np.testing.assert_array_equal(decompress_counts(compress_counts(counts)), counts)


@PROPERTY
@given(st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=30))
def test_large_counts_are_compressed_as_pycocotools_does(values):
    """Up to 24 bits, 5 characters per count: pycocotools writes the final zero of counts that
    all need 6 characters past the end of its buffer."""
    text = compress_counts(np.array(values, dtype=np.int64))
    size = [1, 1]  # pycocotools compresses counts without looking at the size
    assert coco.frPyObjects({"size": size, "counts": values}, *size)["counts"].decode() == text


def test_known_bytes():
    mask = np.array([[1, 0, 0], [1, 1, 0]], dtype=np.uint8)
    assert pack_mask(mask) == bytes([0b10011000])
    assert coco_of_mask(mask, compressed=False) == {"size": [2, 3], "counts": [0, 2, 1, 1, 2]}
    picture = Image.open(io.BytesIO(encode_mask(mask, MaskFormat.PNG)))
    assert (picture.mode, picture.size) == ("1", (3, 2))
    np.testing.assert_array_equal(np.asarray(picture), mask)


def test_masks_of_a_large_picture_are_fast():
    """There is no Python loop over pixels or runs: 1.5 million runs take well under a second."""
    noise = np.random.default_rng(0).integers(0, 2, (1500, 2000), dtype=np.uint8)
    begin = time.process_time()  # CPU time: another program on the machine does not count
    for form in (MaskFormat.PACKED, MaskFormat.COCO_RLE):
        np.testing.assert_array_equal(
            decode_mask(encode_mask(noise, form), form, 2000, 1500), noise
        )
    assert time.process_time() - begin < 3


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((2, 2, 1), dtype=np.uint8), "shape"),
        (np.zeros((0, 2), dtype=np.uint8), "shape"),
        (np.zeros((2, 2)), "type float64"),
        (np.full((2, 2), 255, dtype=np.uint8), r"255\.\.255.*mask > 0"),
        (np.full((2, 2), -1), r"-1\.\.-1"),
    ],
)
def test_what_is_not_a_mask_is_refused(mask, message):
    with pytest.raises(InvalidInput, match=message):
        check_mask(mask)


def test_packed_bits_of_another_size_are_refused():
    data = pack_mask(np.ones((7, 5), dtype=bool))
    for size in ((5, 6), (5, 9), (0, 0), (-5, -7), (10**9, 10**9)):
        with pytest.raises(InvalidInput, match="packed mask"):
            unpack_mask(data, *size)


def test_png_masks_of_other_programs():
    grey = np.array([[0, 255, 1], [128, 0, 0]], dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, format="PNG")
    assert mask_of_png(file.getvalue()).tolist() == [[0, 1, 1], [1, 0, 0]]
    with pytest.raises(InvalidInput, match="3x2 pixels; expected 2x3"):
        mask_of_png(file.getvalue(), expected=(2, 3))
    with pytest.raises(InvalidInput, match="not a complete PNG"):
        mask_of_png(file.getvalue()[:45])
    with pytest.raises(InvalidInput, match="not a complete PNG"):
        mask_of_png(b"hello")
    colour = io.BytesIO()
    Image.new("RGB", (3, 2)).save(colour, format="PNG")
    with pytest.raises(InvalidInput, match="'RGB'"):
        mask_of_png(colour.getvalue())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "not a COCO RLE"),
        ({"size": [2, 2]}, "not a COCO RLE"),
        ({"size": [2], "counts": [4]}, "size"),
        ({"size": [2, 2.0], "counts": [4]}, "size"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "pixels"),
        ({"size": [0, 5], "counts": [0]}, "pixels"),
        ({"size": [2, 2], "counts": 4}, "type int"),
        ({"size": [2, 2], "counts": []}, "list of integers|empty"),
        ({"size": [2, 2], "counts": [4.0]}, "list of integers"),
        ({"size": [2, 2], "counts": ["4"]}, "list of integers"),
        ({"size": [2, 2], "counts": [2**70]}, "list of integers|larger"),
        ({"size": [2, 2], "counts": [2**64 - 1]}, "negative or larger"),
        ({"size": [2, 2], "counts": [[4], [1, 2]]}, "list of integers"),
        ({"size": [2, 2], "counts": [3]}, "add up to 3"),
        ({"size": [2, 2], "counts": [5, -1]}, "negative"),
        ({"size": [2, 2], "counts": ""}, "damaged"),
        ({"size": [2, 2], "counts": "é"}, "outside ASCII"),
        ({"size": [2, 2], "counts": "~"}, "damaged"),
        ({"size": [2, 2], "counts": "o"}, "damaged"),
        ({"size": [2, 2], "counts": "oooooooo0"}, "more than 32 bits"),
        ({"size": [2, 2], "counts": "3"}, "add up to 3"),
    ],
)
def test_damaged_coco_rle_is_refused(value, message):
    with pytest.raises(InvalidInput, match=message):
        mask_of_coco(value)


@PROPERTY
@given(st.text(alphabet=st.characters(min_codepoint=40, max_codepoint=120), max_size=12))
def test_any_string_is_a_mask_or_invalid_input(text):
    try:
        mask = mask_of_coco({"size": [5, 7], "counts": text})
    except InvalidInput:
        return
    assert mask.shape == (5, 7)


def test_masks_of_another_image_are_refused():
    data = encode_mask(np.ones((3, 4), dtype=np.uint8), MaskFormat.COCO_RLE)
    with pytest.raises(InvalidInput, match="4x3 pixels; expected 3x4"):
        decode_mask(data, MaskFormat.COCO_RLE, 3, 4)
    with pytest.raises(InvalidInput, match="not JSON"):
        decode_mask(b"{", MaskFormat.COCO_COUNTS, 4, 3)


def test_formats_have_a_media_type_and_a_suffix():
    assert MaskFormat("png") is MaskFormat.PNG
    assert f"{MaskFormat.COCO_RLE}" == "coco-rle"
    assert MaskFormat.PNG.media_type == "image/png"
    assert not MaskFormat.PACKED.has_size
    assert len({form.suffix for form in MaskFormat}) == len(MaskFormat)
    assert json.loads(encode_mask(np.ones((1, 2), dtype=bool), MaskFormat.COCO_COUNTS)) == {
        "size": [1, 2],
        "counts": [0, 2],
    }
