"""Preprocessing of classification against Pillow's own, and what is refused undecoded."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from dfvt_deploy.data import SAMPLES
from dfvt_deploy.tasks import classification
from dfvt_deploy.tasks.images import (
    DEFAULT_LIMITS,
    ImageError,
    ImageLimits,
    decode_image,
    normalise,
)

from .fixtures import encoded, photograph


def published(data: bytes) -> np.ndarray:
    """The published pipeline, written with Pillow and nothing of ours."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    width, height = image.size
    if width <= height:
        image = image.resize((256, int(256 * height / width)), Image.Resampling.BICUBIC)
    else:
        image = image.resize((int(256 * width / height), 256), Image.Resampling.BICUBIC)
    left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
    return np.asarray(image.crop((left, top, left + 224, top + 224)))


def assert_published(data: bytes) -> None:
    found = classification.preprocess(decode_image(data))
    assert found.shape == (224, 224, 3)
    assert found.dtype == np.uint8
    assert np.array_equal(found, published(data))


SIZES = [(640, 480), (480, 640), (500, 500), (333, 500), (224, 224), (256, 256), (257, 300)]
SIZES += [
    (31, 97),
    (1, 1),
    (2, 3),
    (1000, 15),
    (1920, 1080),
    (1333, 801),
    (255, 1023),
    (3000, 2000),
]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_sizes_equal_pillow_to_the_grey_level(width, height):
    assert_published(encoded(photograph(width, height), quality=90))


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("*.jpg")), ids=lambda path: path.stem)
def test_photographs_equal_pillow(sample):
    assert_published(sample.read_bytes())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = photograph(320, 200)
    for format_ in ("JPEG", "PNG", "WEBP"):
        assert_published(encoded(image, format_, exif=exif))
    if orientation == 6:
        shown = decode_image(encoded(image, "PNG", exif=exif))
        assert np.array_equal(np.asarray(shown), np.rot90(np.asarray(image), k=-1))


MODES = {
    "grey JPEG": lambda image: encoded(image.convert("L")),
    "CMYK JPEG": lambda image: encoded(image.convert("CMYK")),
    "progressive JPEG": lambda image: encoded(image, progressive=True),
    "palette PNG": lambda image: encoded(image.quantize(64), "PNG"),
    "transparent palette PNG": lambda image: encoded(image.quantize(64), "PNG", transparency=3),
    "1-bit PNG": lambda image: encoded(image.convert("1"), "PNG"),
    "grey-alpha PNG": lambda image: encoded(image.convert("LA"), "PNG"),
    "RGBA PNG": lambda image: encoded(_with_alpha(image), "PNG"),
    "RGBA WebP": lambda image: encoded(_with_alpha(image), "WEBP", lossless=True),
    "lossy WebP": lambda image: encoded(image, "WEBP"),
    "16-bit grey PNG": lambda image: encoded(_sixteen_bit(image), "PNG"),
}


def _with_alpha(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def _sixteen_bit(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 3)


@pytest.mark.parametrize("mode", MODES)
def test_modes_equal_pillow(mode):
    assert_published(MODES[mode](photograph(300, 260)))


def test_only_the_first_frame_counts():
    frames = [photograph(280, 260, seed) for seed in (1, 2)]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    expected = classification.preprocess(frames[0])
    assert np.array_equal(classification.preprocess(decode_image(data)), expected)


@pytest.mark.parametrize(("width", "height"), [(30, 2000), (2000, 30), (7, 1500), (1500, 7)])
def test_the_way_for_very_long_images_is_within_one_grey_level(monkeypatch, width, height):
    image = photograph(width, height)
    expected = classification.preprocess(image).astype(int)
    monkeypatch.setattr(classification, "MAX_RESIZED_PIXELS", 0)
    assert np.abs(classification.preprocess(image).astype(int) - expected).max() <= 1


def test_a_line_of_pixels_needs_little_memory():
    image = Image.linear_gradient("L").resize((1, 400_000)).convert("RGB")
    found = classification.preprocess(image)  # resized whole: 256 x 102,400,000
    assert np.ptp(found) <= 1  # the middle of a gradient, magnified


def test_normalise_uses_the_published_figures():
    images = np.array([[[[124, 116, 104]]]], dtype=np.uint8)
    found = normalise(images)
    assert found.shape == (1, 3, 1, 1)
    expected = [(124 - 123.675) / 58.395, (116 - 116.28) / 57.12, (104 - 103.53) / 57.375]
    assert np.allclose(found.reshape(-1), expected, atol=1e-6)


def _png_header(width: int, height: int) -> bytes:
    """A PNG that only claims its size."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.mark.parametrize("size", [(50_001, 1000), (2**31 - 1, 2**31 - 1), (20_000, 20_000)])
def test_pixel_limit_holds_before_decoding(size):
    with pytest.raises(ImageError, match=r"pixels, the limit is 50,000,000"):
        decode_image(_png_header(*size))


def test_byte_limit_holds_before_decoding(monkeypatch):
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(ImageError, match="has 1,001 bytes, the limit is 1,000"):
        decode_image(b"x" * 1001, ImageLimits(max_bytes=1000))


def test_limits_admit_what_they_name():
    data = encoded(photograph(100, 50), "PNG")
    assert decode_image(data, ImageLimits(len(data), 5000)).size == (100, 50)
    with pytest.raises(ImageError, match="100x50 = 5,000 pixels, the limit is 4,999"):
        decode_image(data, ImageLimits(len(data), 4999))


@pytest.mark.parametrize("limits", [(0, 10), (10, 0), (10, 10**9)])
def test_limits_are_checked_themselves(limits):
    with pytest.raises(ValueError, match="max_"):
        ImageLimits(*limits)


def jpeg_of_many_scans(scans: int, size: int = 512) -> bytes:
    """A progressive JPEG whose last scan comes again and again, as it may."""
    data = encoded(photograph(size, size), progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (scans - data.count(b"\xff\xda") + 1) + data[-2:]


def _as_mpo(jpeg: bytes) -> bytes:
    """The JPEG with the segment that says that further images follow."""
    other = encoded(photograph(48, 48), "MPO", save_all=True, append_images=[photograph(48, 48)])
    start = other.index(b"\xff\xe2")
    end = start + 2 + int.from_bytes(other[start + 2 : start + 4], "big")
    return jpeg[:2] + other[start:end] + jpeg[2:]


def test_work_is_bounded_before_decoding():
    assert decode_image(encoded(photograph(100, 80), progressive=True)).size == (100, 80)
    start = time.process_time()
    with pytest.raises(ImageError, match="3,000 JPEG scans, the limit at its size is 40"):
        decode_image(jpeg_of_many_scans(3000, size=48))
    with pytest.raises(ImageError, match="1x50000000, each side must be 1 to 65,535 pixels"):
        decode_image(_png_header(1, 50_000_000))
    with pytest.raises(ImageError, match="JPEG scans, the limit at its size is 40"):
        decode_image(_as_mpo(jpeg_of_many_scans(3000, size=48)))
    jpeg, png = encoded(photograph(64, 64)), encoded(photograph(64, 64), "PNG")
    many = b"\xff\xe1\0\x12Exif\0\0" + bytes(10)
    with pytest.raises(ImageError, match="600,000 parts of Exif metadata, the limit is 400"):
        decode_image(jpeg[:2] + many * 600_000 + jpeg[2:])
    profile = b"a\0\0" + zlib.compress(bytes(10**6))
    with pytest.raises(ImageError, match="10,000 parts of iCCP metadata, the limit is 16"):
        decode_image(png[:33] + _chunk(b"iCCP", profile) * 10_000 + png[33:])
    assert time.process_time() - start < 5, "decoding takes longer"


def damaged() -> dict[str, bytes]:
    """Files that no decoder can use, of many kinds."""
    image = photograph(120, 90)
    jpeg, png, webp = encoded(image), encoded(image, "PNG"), encoded(image, "WEBP")
    rng = np.random.default_rng(0)
    kinds = {
        "empty": b"",
        "one byte": b"\xff",
        "text": b"not an image at all",
        "html": b"<html><body>502 Bad Gateway</body></html>",
        "zeros": bytes(1000),
        "noise": rng.bytes(1000),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "pdf": b"%PDF-1.7\n",
        "jpeg signature only": jpeg[:4],
        "jpeg cut": jpeg[: len(jpeg) // 2],
        "jpeg without its end": jpeg[:-200],
        "png signature only": png[:8],
        "png cut": png[: len(png) // 2],
        "png of a wrong checksum": png[:29] + b"\0\0\0\0" + png[33:],
        "png header only": _png_header(10, 10),
        "webp cut": webp[: len(webp) // 2],
        "webp header only": webp[:20],
        "jpeg in noise": jpeg[:300] + rng.bytes(len(jpeg) - 300)[:100],
    }
    for format_ in ("GIF", "BMP", "TIFF", "PPM", "ICO"):
        kinds[f"{format_}, not enabled"] = encoded(image, format_)
    return kinds


@pytest.mark.parametrize("kind", damaged())
def test_damaged_files_are_image_errors(kind):
    with pytest.raises(ImageError):
        decode_image(damaged()[kind])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_metadata_does_not_cost_the_picture():
    image = photograph(260, 300)
    data = encoded(image, exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage")
    assert decode_image(data, DEFAULT_LIMITS).size == image.size


def test_answers_are_sorted_softmax_with_ties_by_class():
    logits = np.array([[1, 3, 3, 2], [1000, 0, 0, -1000]], dtype=np.float32)
    ids, scores = classification.postprocess(logits, k=3)
    assert ids.tolist() == [[1, 2, 3], [0, 1, 2]]
    assert ids.dtype == np.int32
    assert np.allclose(scores[0], np.exp([3, 3, 2]) / np.exp([1, 3, 3, 2]).sum())
    assert scores[1].tolist() == [1, 0, 0]
    assert classification.postprocess(logits, k=9)[0].shape == (2, 4)


def test_answers_name_the_classes():
    found = classification.postprocess_batch(
        {"logits": np.eye(3, dtype=np.float32)}, ["ä", "b", "c"], k=1
    )
    assert found["labels"].tolist() == [["ä".encode()], [b"b"], [b"c"]]
