"""Every image becomes upright RGB or an `InvalidImage` that says why not."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from ois_client.contract import decoding
from ois_client.contract.errors import InvalidImage
from ois_client.contract.images import ImageLimits, load_image

RNG = np.random.default_rng(7)
COLOUR = RNG.integers(0, 256, (5, 8, 3), dtype=np.uint8)


def encoded(picture, form="PNG", **options):
    file = io.BytesIO()
    picture.save(file, format=form, **options)
    return file.getvalue()


def pixels(picture, form="PNG", **options):
    """Write and read a file; the sizes of the header and of the pixels must agree."""
    loaded = load_image(encoded(picture, form, **options))
    result = loaded.pixels()
    assert result.shape == (loaded.height, loaded.width, 3)
    assert result.dtype == np.uint8
    assert loaded.format == "encoded"
    return result


# -- orientation -------------------------------------------------------------------------------

# The upright image for each EXIF orientation, from the standard's table of row 0 and column 0.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_every_exif_orientation_is_turned_upright(form, options, orientation):
    got = pixels(Image.fromarray(COLOUR), form, exif=exif(orientation), **options)
    np.testing.assert_array_equal(got, UPRIGHT[orientation](COLOUR))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_and_a_pil_image_are_turned_upright_too(orientation):
    stored = np.kron(COLOUR, np.ones((16, 16, 1), dtype=np.uint8))
    data = encoded(Image.fromarray(stored), "JPEG", exif=exif(orientation), quality=95)
    decoded = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(load_image(data).pixels(), UPRIGHT[orientation](decoded))
    as_pil = load_image(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(as_pil.pixels(), UPRIGHT[orientation](decoded))
    assert as_pil.format == "raw"


def test_exif_after_the_pixels_of_a_png_is_read():
    data = encoded(Image.fromarray(COLOUR))
    body = exif(6).tobytes().removeprefix(b"Exif\x00\x00")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body
    chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
    data = data[:-12] + chunk + data[-12:]
    loaded = load_image(data)
    assert (loaded.width, loaded.height) == (5, 8)
    np.testing.assert_array_equal(loaded.pixels(), UPRIGHT[6](COLOUR))


def test_an_image_with_damaged_exif_is_read():
    data = encoded(Image.fromarray(COLOUR), exif=b"Exif\x00\x00II*\x00\xff\xff")
    np.testing.assert_array_equal(load_image(data).pixels(), COLOUR)


# -- pixel formats -----------------------------------------------------------------------------

GREY = COLOUR[..., 0]
ALPHA = COLOUR[..., 1]


def over_white(rgb, alpha):
    share = alpha[..., None] / 255
    return rgb * share + 255 * (1 - share)


def rgb_of(grey):
    return np.repeat(grey[..., None], 3, axis=2)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "PPM", "GIF"])
def test_grey(form):
    np.testing.assert_array_equal(pixels(Image.fromarray(GREY), form), rgb_of(GREY))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "PPM"])
def test_one_bit(form):
    bits = GREY > 127
    np.testing.assert_array_equal(pixels(Image.fromarray(bits), form), rgb_of(bits * np.uint8(255)))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_transparency_is_composited_over_white(form, mode):
    colour = COLOUR if mode == "RGBA" else rgb_of(GREY)
    bands = np.dstack([colour if mode == "RGBA" else GREY, ALPHA])
    got = pixels(Image.fromarray(bands), form)
    assert np.abs(got - over_white(colour, ALPHA)).max() <= 1


def test_colours_under_full_transparency_do_not_show():
    hidden = np.dstack([COLOUR, np.zeros_like(ALPHA)])
    assert (pixels(Image.fromarray(hidden)) == 255).all()
    assert (load_image(Image.fromarray(hidden)).pixels() == 255).all()


def test_palette_with_and_without_transparency():
    indices = (np.arange(40) % 4).reshape(5, 8).astype(np.uint8)
    table = np.array([[10, 20, 30], [200, 0, 0], [0, 200, 0], [1, 2, 3]], dtype=np.uint8)
    picture = Image.frombytes("P", (8, 5), indices.tobytes())
    picture.putpalette(table.tobytes())
    for form in ("PNG", "GIF", "BMP", "TIFF"):
        np.testing.assert_array_equal(pixels(picture, form), table[indices])
    table[1] = 255
    for form in ("PNG", "GIF"):
        np.testing.assert_array_equal(pixels(picture, form, transparency=1), table[indices])


def test_a_single_transparent_colour_without_alpha_channel():
    expected = np.where((COLOUR[2, 3] == COLOUR).all(axis=2, keepdims=True), 255, COLOUR)
    colour = tuple(COLOUR[2, 3].tolist())
    np.testing.assert_array_equal(pixels(Image.fromarray(COLOUR), transparency=colour), expected)


def test_cmyk():
    cmyk = Image.frombytes("CMYK", (8, 5), np.dstack([COLOUR, GREY]).tobytes())
    expected = np.asarray(cmyk.convert("RGB"))
    np.testing.assert_array_equal(pixels(cmyk, "TIFF"), expected)
    flat = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    assert np.abs(pixels(flat, "JPEG").astype(int) - [255, 0, 0]).max() <= 3


DEEP = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], dtype=np.uint16)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    expected = [[0, 0, 1, 1, 128, 254, 255, 255]]
    picture = Image.fromarray(DEEP)
    ppm = b"P5 8 1 65535\n" + DEEP.astype(">u2").tobytes()
    for source in (picture, encoded(picture, "PNG"), encoded(picture, "TIFF"), ppm):
        np.testing.assert_array_equal(load_image(source).pixels(), rgb_of(np.array(expected)))


def test_tiffs_with_white_as_zero_or_12_bits_per_sample():
    def short_tag(tag, value):
        return struct.pack("<HHIH", tag, 3, 1, value)

    data = encoded(Image.fromarray(DEEP), "TIFF")
    assert short_tag(262, 1) in data
    inverted = load_image(data.replace(short_tag(262, 1), short_tag(262, 0))).pixels()
    np.testing.assert_array_equal(inverted, 255 - load_image(data).pixels())

    twelve = DEEP[0] >> 4
    even, odd = twelve[::2], twelve[1::2]
    packed = np.stack([even >> 4, (even & 15) << 4 | odd >> 8, odd & 255], axis=1).astype(np.uint8)
    assert DEEP.tobytes() in data
    data = data.replace(DEEP.tobytes(), packed.tobytes().ljust(DEEP.nbytes, b"\0"))
    got = load_image(data.replace(short_tag(258, 16), short_tag(258, 12))).pixels()
    np.testing.assert_array_equal(got, rgb_of(np.rint(twelve[None] * (255 / 4095))))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_32_bit_grey_is_refused_because_its_white_is_unknown(kind):
    picture = Image.fromarray(GREY.astype(kind))
    with pytest.raises(InvalidImage, match="convert to 8 or 16 bits"):
        load_image(encoded(picture, "TIFF")).pixels()
    with pytest.raises(InvalidImage, match="convert to 8 or 16 bits"):
        load_image(picture)


@pytest.mark.parametrize(("form", "options"), [("GIF", {}), ("PNG", {}), ("TIFF", {})])
def test_the_first_picture_of_an_animation_is_used(form, options):
    first, second = Image.fromarray(GREY), Image.fromarray(255 - GREY)
    got = pixels(first, form, save_all=True, append_images=[second], **options)
    np.testing.assert_array_equal(got, rgb_of(GREY))


def test_animated_webp_and_mpo_give_their_first_picture():
    first, second = Image.new("RGB", (64, 48), "red"), Image.new("RGB", (64, 48), "blue")
    for form in ("WEBP", "MPO"):
        got = pixels(first, form, save_all=True, append_images=[second])
        assert got.shape == (48, 64, 3)
        assert np.abs(got.astype(int) - [255, 0, 0]).max() <= 4


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_one_pixel_wide_pictures(form, size):
    assert pixels(Image.new("RGB", size, "white"), form).shape == (size[1], size[0], 3)


def test_webp_sizes_come_from_all_three_kinds_of_header():
    for options in ({"lossless": True}, {"quality": 50}, {"quality": 50, "exif": exif(1)}):
        data = encoded(Image.new("RGB", (123, 77), "green"), "WEBP", **options)
        assert decoding._webp_size(data) == (123, 77)


# -- raw pictures and digests ------------------------------------------------------------------


def test_arrays_are_sent_raw():
    for array, expected in ((COLOUR, COLOUR), (GREY, rgb_of(GREY)), (COLOUR[::-1, ::2], None)):
        loaded = load_image(array)
        assert loaded.format == "raw"
        assert (loaded.height, loaded.width) == array.shape[:2]
        assert loaded.data == array.tobytes()
        np.testing.assert_array_equal(loaded.pixels(), array if expected is None else expected)


@pytest.mark.parametrize(
    "array",
    [
        COLOUR.astype(np.float32),
        COLOUR.astype(np.uint16),
        np.zeros((5, 8, 4), dtype=np.uint8),
        np.zeros((5, 8, 1), dtype=np.uint8),
        np.zeros(5, dtype=np.uint8),
        np.zeros((1, 5, 8, 3), dtype=np.uint8),
        np.zeros((0, 8, 3), dtype=np.uint8),
    ],
)
def test_other_arrays_are_refused_with_what_was_got(array):
    with pytest.raises(InvalidImage, match=r"got an array of shape|got 8x0 pixels"):
        load_image(array)


def test_the_digest_depends_on_format_shape_and_content(tmp_path):
    data = encoded(Image.fromarray(COLOUR))
    (tmp_path / "a.png").write_bytes(data)
    same = {load_image(source).digest for source in (data, bytearray(data), memoryview(data))}
    same |= {load_image(tmp_path / "a.png").digest, load_image(str(tmp_path / "a.png")).digest}
    assert len(same) == 1
    flat = np.arange(36, dtype=np.uint8)
    sources = (
        data,
        np.frombuffer(data, dtype=np.uint8)[None],
        flat.reshape(6, 6),
        flat.reshape(4, 9),
        flat.reshape(4, 3, 3),
        flat.reshape(3, 4, 3),
        COLOUR,
        255 - COLOUR,
    )
    digests = [load_image(source).digest for source in sources]
    assert len(set(digests)) == len(sources)
    assert all(len(digest) == 64 for digest in digests)
    assert load_image(Image.fromarray(COLOUR)).digest == load_image(COLOUR).digest


def test_pixels_cannot_be_changed_under_the_digest():
    for source in (COLOUR, encoded(Image.fromarray(COLOUR))):
        with pytest.raises(ValueError, match="read-only"):
            load_image(source).pixels()[0, 0, 0] = 1


# -- what is refused ---------------------------------------------------------------------------


def png_header(width, height):
    """A PNG with a size in its header and no pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk
        + struct.pack(">I", 0)
        + b"IDAT"
        + struct.pack(">I", zlib.crc32(b"IDAT"))
    )


def webp_header(width, height):
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF\x16\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x00\x00\x00\x00" + sides


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (png_header(30000, 30000), "30000x30000 = 900000000"),
        (webp_header(2**24, 2**24), "16777216x16777216 = "),
        (b"P6 60000 60000 255\n", "60000x60000 = 3600000000"),
        (
            b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b"," + bytes(12),
            "65535x65535 = ",
        ),
    ],
)
def test_a_decompression_bomb_is_refused_by_its_header_with_size_and_limit(data, size):
    with pytest.raises(InvalidImage, match=f"{size}.*limit is {2**28}"):
        load_image(data)


def chunk(kind, data=b""):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def many_parts():
    """Files of megabytes with parts without content, which Pillow reads one by one in Python."""
    picture = Image.new("RGB", (40, 30), "white")
    png, jpeg, gif = (encoded(picture, form) for form in ("PNG", "JPEG", "GIF"))
    pixels, frame = png.index(b"IDAT") - 4, gif.index(b",")
    count = 300_000
    return {
        "PNG before the pixels": png[:pixels] + chunk(b"teSt") * count + png[pixels:],
        "PNG without pixels": png[:pixels] + chunk(b"IDAT") * count + png[pixels:],
        "PNG after the pixels": png[:-12] + chunk(b"teSt") * count + png[-12:],
        "JPEG comments": jpeg[:2] + b"\xff\xfe\0\2" * count + jpeg[2:],
        "JPEG fill bytes": jpeg[:2] + b"\xff" * count + jpeg[2:],
        "GIF comment": gif[:frame] + b"!\xfe" + b"\1a" * count + b"\0" + gif[frame:],
        "GIF extensions": gif[:frame] + b"!\xfe\0" * count + gif[frame:],
        "PPM comments": b"P6 " + b"#\n" * count + b"4 3 255\n" + bytes(36),
    }


@pytest.mark.parametrize(("data"), many_parts().values(), ids=many_parts())
def test_a_file_of_very_many_parts_is_refused_before_all_are_read(data):
    with pytest.raises(InvalidImage, match="too many parts"):
        load_image(data).pixels()


def test_a_large_plain_ppm_file_is_refused_and_a_small_one_read():
    assert load_image(b"P2 2 1 255\n7 9\n").pixels()[0, :, 0].tolist() == [7, 9]
    with pytest.raises(InvalidImage, match="plain PPM"):
        load_image(b"P2 2 1 255\n7 9\n" + b" " * 2**22)


def test_a_png_file_with_its_pixels_in_very_small_chunks_is_read():
    data = encoded(
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8))
    )
    start = data.index(b"IDAT")
    content = data[start + 4 : start + 4 + int.from_bytes(data[start - 4 : start], "big")]
    small = b"".join(chunk(b"IDAT", content[at : at + 1]) for at in range(len(content)))
    many = data[: start - 4] + small + chunk(b"IEND")
    assert len(content) > 20_000
    np.testing.assert_array_equal(load_image(many).pixels(), load_image(data).pixels())


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_the_callers_limit_applies_and_pillows_global_one_does_not(form, monkeypatch):
    data = encoded(Image.new("RGB", (40, 30), "white"), form)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 601)  # WebP keeps Pillow's own limit, twice this
    assert load_image(data, ImageLimits(max_pixels=1200)).pixels().shape == (30, 40, 3)
    assert Image.MAX_IMAGE_PIXELS == 601
    for source in (data, np.zeros((30, 40), dtype=np.uint8), Image.new("L", (40, 30))):
        with pytest.raises(InvalidImage, match="40x30 = 1200 pixels; the limit is 1199"):
            load_image(source, ImageLimits(max_pixels=1199))


def test_tiffs_beyond_twice_pillows_limit_decode(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for options in ({}, {"compression": "tiff_lzw"}, {"exif": exif(6)}):
        pixels(Image.new("RGB", (40, 30), "white"), "TIFF", **options)


def test_threads_can_have_different_limits():
    data = encoded(Image.fromarray(COLOUR))

    def accepted(limit):
        try:
            return load_image(data, ImageLimits(max_pixels=limit)).width == 8
        except InvalidImage:
            return False

    limits = [39, 40] * 100
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(accepted, limits)) == [limit == 40 for limit in limits]


def test_too_many_bytes(tmp_path):
    data = encoded(Image.fromarray(COLOUR))
    (tmp_path / "a.png").write_bytes(data)
    limits = ImageLimits(max_bytes=len(data) - 1)
    for source in (data, tmp_path / "a.png", np.zeros((50, 50, 3), dtype=np.uint8)):
        with pytest.raises(InvalidImage, match=f"limit (of|is) {len(data) - 1}"):
            load_image(source, limits)
    load_image(data, ImageLimits(max_bytes=len(data)))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_truncated_anywhere_is_invalid_image_and_nothing_else(form):
    noise = RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), form)
    for length in {1, 2, 4, 8, 12, 20, 30, len(data) // 4, len(data) // 2, 3 * len(data) // 4}:
        with pytest.raises(InvalidImage):
            load_image(data[:length]).pixels()


def test_flipped_bytes_never_raise_anything_else():
    rng = np.random.default_rng(11)
    noise = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    for form in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM"):
        data = encoded(Image.fromarray(noise), form)
        for _ in range(60):
            damaged = bytearray(data)
            damaged[rng.integers(len(data))] = rng.integers(256)
            with suppress(InvalidImage):
                load_image(bytes(damaged), ImageLimits(max_pixels=10**6)).pixels()


@pytest.mark.parametrize("data", [b"hello, I am a text file\n", b"P5 is a format", b"BM", b"\x00"])
def test_text_with_an_images_name_is_refused(tmp_path, data):
    (tmp_path / "renamed.jpg").write_bytes(data)
    with pytest.raises(InvalidImage, match=r"renamed\.jpg"):
        load_image(tmp_path / "renamed.jpg")


def test_missing_empty_and_unreadable_sources(tmp_path):
    with pytest.raises(InvalidImage, match="does not exist"):
        load_image(tmp_path / "none.png")
    with pytest.raises(InvalidImage, match="is not a file"):
        load_image(tmp_path)
    with pytest.raises(InvalidImage, match="0 bytes"):
        load_image(b"")
    (tmp_path / "empty.png").touch()
    with pytest.raises(InvalidImage, match="0 bytes"):
        load_image(tmp_path / "empty.png")
    with pytest.raises(InvalidImage):
        load_image("nul\x00name.png")
    with pytest.raises(InvalidImage):
        load_image("x" * 5000)
    with pytest.raises(InvalidImage, match="type int"):
        load_image(3)


def test_formats_outside_the_list_are_refused():
    data = encoded(Image.fromarray(COLOUR), "TGA")
    with pytest.raises(InvalidImage, match="not an image"):
        load_image(data)
