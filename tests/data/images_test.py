"""Images: decoding and rescaling against Pillow and float64 arithmetic."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from reference.published import torchvision_pixels
from sample_data import png_header

from alexnet_jax.data import images


def smooth(height, width, channels=3):
  """A picture without sharp edges, u8[H,W,C], which JPEG keeps well."""
  y, x = np.mgrid[0:height, 0:width]
  waves = [np.sin(y / 9 + k) + np.cos(x / (7 + k)) for k in range(channels)]
  return (127 + 60 * np.stack(waves, -1)).clip(0, 255).astype(np.uint8)


def encode(image, file_format, **options):
  file = io.BytesIO()
  image = image if isinstance(image, Image.Image) else Image.fromarray(image)
  image.save(file, file_format, **options)
  return file.getvalue()


def test_jpeg_is_rgb_in_this_order():
  red, green, blue = 200, 100, 30
  flat = np.full((16, 24, 3), [red, green, blue], np.uint8)
  decoded = images.decode(encode(flat, "JPEG", quality=95))
  assert decoded.shape == (16, 24, 3)
  assert decoded.dtype == np.uint8
  np.testing.assert_allclose(decoded[8, 8], [red, green, blue], atol=2)


def test_jpeg_is_near_pillows_decoding_and_the_original():
  picture = smooth(70, 90)
  encoded = encode(picture, "JPEG", quality=95, subsampling=0)
  decoded = images.decode(encoded).astype(int)
  pillow = np.asarray(Image.open(io.BytesIO(encoded))).astype(int)
  assert np.abs(decoded - pillow).max() <= 2
  assert np.abs(decoded - picture).mean() < 2


def test_grey_jpeg_and_grey_png_are_repeated():
  grey = smooth(20, 30, 1)[..., 0]
  for file_format in ("JPEG", "PNG"):
    decoded = images.decode(encode(grey, file_format))
    assert decoded.shape == (20, 30, 3)
    assert np.abs(decoded.astype(int) - grey[..., np.newaxis]).max() < 12
    np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])


def test_cmyk_jpeg_shows_its_colours():
  # Ink: no cyan, half magenta, full yellow: (255, 127, 0), orange.
  cmyk = Image.new("CMYK", (16, 16), (0, 128, 255, 0))
  encoded = encode(cmyk, "JPEG", quality=95)
  assert b"Adobe" in encoded  # Pillow writes the inverted kind
  decoded = images.decode(encoded)
  np.testing.assert_allclose(decoded[8, 8], [255, 127, 0], atol=6)


def test_adobe_rgb_jpeg_is_not_read_as_ycbcr():
  flat = np.full((16, 16, 3), [200, 40, 90], np.uint8)
  encoded = encode(flat, "JPEG", quality=95, keep_rgb=True)
  assert simplejpeg.decode_jpeg_header(encoded)[2] == "RGB"
  np.testing.assert_allclose(images.decode(encoded)[5, 5], [200, 40, 90], 0, 3)


def test_png_is_exact():
  picture = smooth(9, 11)
  np.testing.assert_array_equal(images.decode(encode(picture, "PNG")), picture)


def test_transparent_images_are_placed_on_white():
  rgba = np.zeros((2, 2, 4), np.uint8)
  rgba[0, 0] = [10, 20, 30, 255]
  rgba[0, 1] = [10, 20, 30, 0]
  rgba[1, 0] = [0, 0, 0, 128]
  decoded = images.decode(encode(rgba, "PNG"))
  np.testing.assert_array_equal(decoded[0], [[10, 20, 30], [255, 255, 255]])
  np.testing.assert_allclose(decoded[1, 0], [127, 127, 127], atol=1)


def test_palette_with_and_without_transparency():
  picture = Image.new("P", (2, 1))
  picture.putpalette([255, 0, 0, 0, 0, 255])
  picture.putdata([0, 1])
  expected = [[[255, 0, 0], [0, 0, 255]]]
  np.testing.assert_array_equal(images.decode(encode(picture, "PNG")), expected)
  hidden = encode(picture, "PNG", transparency=b"\x00\xff")
  expected = [[[255, 255, 255], [0, 0, 255]]]
  np.testing.assert_array_equal(images.decode(hidden), expected)


def test_sixteen_bits_keep_the_upper_eight():
  levels = np.array([[0, 255, 256, 65535, 0x8012]], np.uint16)
  decoded = images.decode(encode(levels, "PNG"))
  np.testing.assert_array_equal(decoded[0, :, 1], [0, 0, 1, 255, 0x80])


def png(depth, color, rows, transparent, width):
  """A PNG with a transparent colour, which Pillow cannot write at all depths.

  `rows` are its rows as bytes, `transparent` the content of its tRNS chunk.
  """

  def chunk(kind, content):
    crc = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + crc

  header = struct.pack(">IIBBBBB", width, len(rows), depth, color, 0, 0, 0)
  pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", header)
    + chunk(b"tRNS", transparent)
    + chunk(b"IDAT", pixels)
    + chunk(b"IEND", b"")
  )


@pytest.mark.parametrize("depth", [2, 4, 8, 16])
def test_a_transparent_level_of_grey_is_white_at_every_depth(depth):
  """Three levels, of which the second is transparent."""
  levels = {2: (0, 1, 2), 4: (0, 5, 9), 8: (0, 77, 200), 16: (0, 515, 0xC8C8)}
  bits = "".join(f"{level:0{depth}b}" for level in levels[depth])
  row = int(bits.ljust(48, "0"), 2).to_bytes(6, "big")[: -(-depth * 3 // 8)]
  key = struct.pack(">H", levels[depth][1])
  decoded = images.decode(png(depth, 0, [row], key, 3))
  largest = 2**depth - 1
  expected = [0, 255, levels[depth][2] * 255 // largest]
  np.testing.assert_array_equal(decoded[0, :, 1], expected)


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_colour_is_white(depth):
  form = ">3H" if depth == 16 else "3B"
  colors = [(10, 20, 30), (40, 50, 60)]
  # Of 16 bits, the lower 8 differ from the upper ones.
  levels = [[v * 256 + 7 if depth == 16 else v for v in c] for c in colors]
  row = b"".join(struct.pack(form, *pixel) for pixel in levels)
  key = struct.pack(">3H", *levels[1])
  decoded = images.decode(png(depth, 2, [row], key, 2))
  np.testing.assert_array_equal(decoded[0], [colors[0], [255, 255, 255]])


@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_lacks_only_its_end_marker_is_whole(
  missing, progressive, mode
):
  picture = Image.fromarray(smooth(40, 56)).convert(mode)
  encoded = encode(picture, "JPEG", progressive=progressive)
  whole = images.decode(encoded)
  np.testing.assert_array_equal(images.decode(encoded[:-missing]), whole)
  for cut in (missing + 2, len(encoded) // 3):
    with pytest.raises(images.UndecodableImage):
      images.decode(encoded[:-cut])


def test_every_format_that_is_named_is_decoded():
  picture = smooth(20, 30)
  for name in images.FORMATS:
    if name in Image.SAVE and name in Image.OPEN:
      decoded = images.decode(encode(picture, name))
      assert np.abs(decoded.astype(int) - picture).mean() < 12, name


@pytest.mark.parametrize("kind", ["EPS", "PCX", "TGA", "ICO"])
def test_other_formats_of_pillow_are_not_opened(kind, monkeypatch):
  """Pillow starts Ghostscript on PostScript."""
  encoded = encode(smooth(20, 30), kind)
  ran = []
  monkeypatch.setattr("subprocess.check_call", lambda *a, **k: ran.append(a))
  with pytest.raises(images.UndecodableImage, match="cannot identify"):
    images.decode(encoded)
  assert not ran


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(kind, orientation):
  """As Pillow's own exif_transpose does."""
  picture = smooth(20, 40)
  picture[:6, :9] = [250, 10, 10]
  exif = Image.Exif()
  exif[0x0112] = orientation
  encoded = encode(picture, kind, exif=exif)
  with Image.open(io.BytesIO(encoded)) as opened:
    opened.load()
    expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
  decoded = images.decode(encoded, upright=True)
  assert decoded.shape == expected.shape
  assert np.abs(decoded.astype(int) - expected).mean() < 2


def test_orientation_is_ignored():
  exif = Image.Exif()
  exif[0x0112] = 6
  encoded = encode(smooth(20, 40), "JPEG", exif=exif)
  assert images.decode(encoded).shape == (20, 40, 3)


@pytest.mark.parametrize(
  "encoded",
  [
    b"",
    b"\x00" * 1000,
    b"not an image",
    b"\xff\xd8\xff",
    encode(smooth(64, 64), "JPEG")[:700],
    encode(smooth(64, 64), "PNG")[:300],
  ],
  ids=["empty", "zeros", "text", "soi", "cut jpeg", "cut png"],
)
def test_damaged_images_are_undecodable_with_a_reason(encoded):
  with pytest.raises(images.UndecodableImage, match=r"\w+"):
    images.decode(encoded)


def test_harmless_damage_is_tolerated():
  encoded = encode(smooth(64, 64), "JPEG")
  assert images.decode(encoded + b"\x00tail").shape == (64, 64, 3)


@pytest.mark.parametrize("side", [9_460, 20_000, 100_000])
def test_a_decompression_bomb_is_refused_before_decoding(side):
  with pytest.raises(images.UndecodableImage, match="pixels"):
    images.decode(png_header(side, side))


def test_a_huge_jpeg_is_refused_by_its_header():
  encoded = bytearray(encode(smooth(16, 16), "JPEG"))
  at = encoded.index(b"\xff\xc0") + 5  # the frame's height and width
  encoded[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
  with pytest.raises(images.UndecodableImage, match="65000 x 65000 pixels"):
    images.decode(bytes(encoded))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_bytes_decode_or_are_undecodable(data):
  """A mutated file decodes to RGB or raises UndecodableImage."""
  kind = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF"]))
  encoded = bytearray(encode(smooth(24, 17), kind))
  for _ in range(data.draw(st.integers(0, 8))):
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] = data.draw(st.integers(0, 255))
  cut = data.draw(st.integers(0, len(encoded)))
  try:
    decoded = images.decode(bytes(encoded[: max(cut, 1)]))
  except images.UndecodableImage:
    return
  assert decoded.ndim == 3
  assert decoded.shape[2] == 3
  assert images.rescale(decoded, 8).shape == (8, 8, 3)


def test_reducing_averages_areas():
  picture = np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8)
  blocks = picture.reshape(8, 3, 12, 3, 3).astype(float).mean((1, 3))
  expected = blocks[:, 2:10]  # the centre 8 of 12 columns
  assert np.abs(images.rescale(picture, 8) - expected).max() <= 0.5


def areas(old, new):
  """f64[new,old]: the share of each old pixel in each new one."""
  edges = np.arange(new + 1) * old / new
  upper = np.minimum(edges[1:, np.newaxis], np.arange(old) + 1.0)
  lower = np.maximum(edges[:-1, np.newaxis], np.arange(old) + 0.0)
  return (upper - lower).clip(min=0) * new / old


def test_reducing_by_a_fraction_weights_areas():
  picture = np.random.default_rng(2).integers(0, 256, (300, 430, 3), np.uint8)
  rows = np.einsum("ih,hwc->iwc", areas(300, 256), picture.astype(float))
  # 430 * 256 / 300 is 366.9; of 367 columns the centre crop drops 55.
  expected = np.einsum("jw,iwc->ijc", areas(430, 367), rows)[:, 55:311]
  assert np.abs(images.rescale(picture, 256) - expected).max() <= 0.51


def test_warping_keeps_the_whole_picture():
  picture = np.random.default_rng(3).integers(0, 256, (96, 150, 3), np.uint8)
  rows = np.einsum("ih,hwc->iwc", areas(96, 64), picture.astype(float))
  expected = np.einsum("jw,iwc->ijc", areas(150, 64), rows)
  assert np.abs(images.warp(picture, 64) - expected).max() <= 0.51


def cubic(distance):
  """Keys' kernel with a = -.75, which is OpenCV's."""
  a, x = -0.75, abs(distance)
  if x <= 1:
    return (a + 2) * x**3 - (a + 3) * x**2 + 1
  return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def enlarged(line, count):
  """float64 cubic interpolation of [N,...] to [count,...]."""
  out = np.zeros((count, *line.shape[1:]))
  for i in range(count):
    center = (i + 0.5) * len(line) / count - 0.5
    for j in range(int(np.floor(center)) - 1, int(np.floor(center)) + 3):
      nearest = min(max(j, 0), len(line) - 1)
      out[i] += cubic(center - j) * line[nearest]
  return out


@pytest.mark.parametrize(
  ("height", "width"), [(300, 455), (457, 300), (90, 133), (256, 301), (64, 64)]
)
def test_torchvisions_rescaling_is_torchvisions(height, width):
  """Resize(256), CenterCrop(224), from the same JPEG; margins odd and even."""
  encoded = encode(smooth(height, width), "JPEG", quality=95)
  out = np.empty((256, 256, 3), np.uint8)
  images.decode_into(out, encoded, "torchvision")
  expected = torchvision_pixels(encoded)
  np.testing.assert_array_equal(out[16:240, 16:240], expected)


@pytest.mark.parametrize(("height", "width"), [(300, 455), (90, 133)])
def test_caffes_rescaling_interpolates_between_four_pixels(height, width):
  """convert_imageset: bilinear, of both sides, without antialiasing."""
  image = smooth(height, width)

  def places(length):
    at = np.clip((np.arange(256) + 0.5) * length / 256 - 0.5, 0, length - 1)
    low = np.minimum(at.astype(int), length - 2)
    return low, (at - low)[:, np.newaxis]

  (row, down), (column, right) = places(height), places(width)
  down = down[..., np.newaxis]
  rows = image[row] * (1 - down) + image[row + 1] * down
  expected = rows[:, column] * (1 - right) + rows[:, column + 1] * right
  found = images.RESCALE["caffe"](image, 256)
  assert np.abs(found - expected).max() <= 1  # OpenCV rounds to 1/2048


def test_enlarging_is_cubic():
  picture = np.random.default_rng(1).integers(0, 256, (8, 12, 3), np.uint8)
  rows = enlarged(picture.astype(float), 20)
  expected = enlarged(rows.swapaxes(0, 1), 30).swapaxes(0, 1)[:, 5:25]
  actual = images.rescale(picture, 20).astype(float)
  assert np.abs(actual - expected.clip(0, 255)).max() <= 1.5


def test_an_image_of_the_right_height_is_only_cropped():
  picture = smooth(256, 300)
  np.testing.assert_array_equal(
    images.rescale(picture, 256), picture[:, 22:278]
  )


@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 2), (5, 700)])
def test_extreme_shapes_stay_small(shape, monkeypatch):
  resize, seen = cv2.resize, []

  def watched(image, to, **options):
    seen.append(to[0] * to[1])
    return resize(image, to, **options)

  monkeypatch.setattr(cv2, "resize", watched)
  picture = np.full((*shape, 3), 77, np.uint8)
  assert (images.rescale(picture, 64) == 77).all()
  assert max(seen) <= 64 * 64 * images.MAX_ASPECT


@pytest.mark.parametrize("shape", [(32, 32), (40, 50), (9, 7)])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_decoding_in_place_equals_decoding_and_rescaling(shape, file_format):
  encoded = encode(smooth(*shape), file_format)
  batch = np.zeros((3, 32, 32, 3), np.uint8)
  images.decode_into(batch[1], encoded)
  expected = images.rescale(images.decode(encoded), 32)
  np.testing.assert_array_equal(batch[1], expected)
  assert not batch[0].any()
  assert not batch[2].any()


def test_decoding_in_place_handles_damage_and_cmyk():
  out = np.zeros((32, 32, 3), np.uint8)
  cut = encode(smooth(32, 32), "JPEG")[:-200]
  with pytest.raises(images.UndecodableImage):
    images.decode_into(out, cut)
  cmyk = encode(Image.new("CMYK", (32, 32), (0, 128, 255, 0)), "JPEG")
  images.decode_into(out, cmyk)
  np.testing.assert_allclose(out[8, 8], [255, 127, 0], atol=6)
