"""Images: decoding and rescaling to a fixed size.

The pixels are those that the tools of 2012 made (paper, section 2; `make-data`
of cuda-convnet2).
"""

import contextlib
import functools
import io
import re
import threading
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import Image

MAX_PIXELS = 2**26  # 8192 x 8192: 200 MB as RGB
MAX_ASPECT = 8  # of the sides; pixels further out are far outside the crop

# Colour spaces that simplejpeg decodes; Pillow decodes CMYK.
DIRECT_COLORS = ("YCbCr", "RGB", "Gray")
END_OF_JPEG = b"\xff\xd9"

# What Pillow may decode, by the content of a file. It knows more formats, and
# for one of them, PostScript, it would run another program on the file.
FORMATS = (
  "JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF",
)  # fmt: skip

LARGE = 2**24  # pixels; photographs seldom have more
_one_large_image = threading.Lock()


class UndecodableImage(ValueError):
  """Bytes that cannot be decoded as an image; the message is the reason."""


def decode(encoded: bytes, upright: bool = False) -> np.ndarray:
  """Decodes an image in one of FORMATS to uint8[H,W,3] RGB.

  Grey is repeated in all channels, CMYK (also Adobe's inverted kind) is
  converted, transparent images are placed on white, and of 16 bits the upper
  8 are kept. A JPEG that lacks only its end marker is decoded, because all of
  its pixels are there.

  Args:
    upright: whether to turn the image as its EXIF orientation says, which is
      not done for ImageNet, in 2012 or since. TIFF has an orientation of its
      own, which is always applied.

  Raises:
    UndecodableImage: the bytes are damaged or not an image, or the image has
      more than MAX_PIXELS, which is found before decoding it.
  """
  header = _jpeg_header(encoded)
  if header:
    encoded = _with_end_marker(encoded, header)
  if not header or header.colors not in DIRECT_COLORS:
    return _decode_with_pillow(encoded, upright)
  try:
    image = simplejpeg.decode_jpeg(encoded)
  except ValueError:  # Pillow may tolerate the damage
    return _decode_with_pillow(encoded, upright)
  if upright:
    with contextlib.suppress(Exception), open_image(encoded) as opened:
      return _turn(image, _orientation(opened))
  return image


def to_rgb(
  picture: Image.Image | np.ndarray, upright: bool = False
) -> np.ndarray:
  """uint8[H,W,3] of an image of Pillow, or of an array of RGB or grey pixels.

  `upright` is that of `decode`, for images of Pillow.

  Raises:
    UndecodableImage: the array is neither uint8[H,W,3] nor uint8[H,W], or the
      image is damaged.
  """
  if isinstance(picture, Image.Image):
    with _explaining_damage():
      pixels = np.array(_to_rgb(picture))
      return _turn(pixels, _orientation(picture)) if upright else pixels
  pixels = np.asarray(picture)
  if pixels.ndim == 2:  # grey
    pixels = np.repeat(pixels[..., np.newaxis], 3, axis=2)
  if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
    raise UndecodableImage(
      "an array of pixels must be uint8[height,width,3] or uint8[height,width]"
      f" (got {pixels.dtype}{list(pixels.shape)})"
    )
  if not pixels.size:
    raise UndecodableImage(f"it has no pixels (got {list(pixels.shape)})")
  return pixels


def decode_into(out: np.ndarray, encoded: bytes, rescale: str = "crop") -> None:
  """Decodes and rescales an image into `out`, a contiguous uint8[S,S,3].

  `rescale` is a key of RESCALE. An image of that size is decoded in place,
  which saves a tenth of the time. If it raises UndecodableImage, the content of
  `out` is undefined.
  """
  header = _jpeg_header(encoded)
  direct = header and header.colors in DIRECT_COLORS
  if direct and (header.height, header.width) == out.shape[:2]:
    with contextlib.suppress(ValueError):
      simplejpeg.decode_jpeg(encoded, buffer=out)
      return
  out[:] = RESCALE[rescale](decode(encoded), len(out))


def open_image(encoded: bytes) -> Image.Image:
  """Opens an image with Pillow, which reads its pixels later, if ever.

  Raises:
    UnidentifiedImageError: it is in none of FORMATS.
  """
  return Image.open(io.BytesIO(encoded), formats=_known_formats())


@functools.cache
def _known_formats() -> list[str]:
  Image.init()  # Pillow before 11.3 has no AVIF
  return [name for name in FORMATS if name in Image.OPEN]


@functools.cache
def suffixes() -> tuple[str, ...]:
  """What the names of files in FORMATS end in: ".bmp", ".jpg" and others."""
  known = _known_formats()
  endings = Image.registered_extensions().items()
  return tuple(sorted(suffix for suffix, name in endings if name in known))


class _JpegHeader(NamedTuple):
  height: int
  width: int
  colors: str
  subsampling: str


def _jpeg_header(encoded: bytes) -> _JpegHeader | None:
  """The header of a JPEG, None if the bytes do not begin as one."""
  if encoded[:3] != b"\xff\xd8\xff":
    return None
  try:
    header = _JpegHeader(*simplejpeg.decode_jpeg_header(encoded))
  except ValueError:
    return None
  _check_size(header.height, header.width)
  return header


def _with_end_marker(encoded: bytes, header: _JpegHeader) -> bytes:
  """A JPEG with its end marker, if nothing else of it is missing."""
  if encoded.endswith(END_OF_JPEG):
    return encoded
  completed = encoded + END_OF_JPEG
  direct = header.colors in DIRECT_COLORS
  try:  # simplejpeg notices missing pixels; Pillow, given the marker, does not
    simplejpeg.decode_jpeg(completed, "RGB" if direct else "CMYK")
  except ValueError:
    return encoded
  return completed


def _decode_with_pillow(encoded: bytes, upright: bool) -> np.ndarray:
  with _explaining_damage(), open_image(encoded) as image:
    _check_size(image.height, image.width)
    # Pillow makes several copies: one large image at a time bounds memory.
    large = image.height * image.width > LARGE
    with _one_large_image if large else contextlib.nullcontext():
      _scale_color_key(image, encoded)
      return to_rgb(image, upright)


@contextlib.contextmanager
def _explaining_damage() -> Iterator[None]:
  """Raises UndecodableImage for what Pillow raises: nearly any type."""
  try:
    yield
  except UndecodableImage:
    raise
  except Exception as error:
    reason = str(error) or type(error).__name__
    # Without the address of the object that Pillow read.
    reason = re.sub(r" <_io.BytesIO.*>", "", reason)
    raise UndecodableImage(reason) from error


def _scale_color_key(image: Image.Image, encoded: bytes) -> None:
  """Makes a PNG's transparent colour one of 8 bits, as Pillow's pixels are.

  Pillow keeps the file's levels: of 16 bits, or of 2 or 4 for grey.
  """
  key = image.info.get("transparency")
  depth = encoded[24] if image.format == "PNG" else 8
  if image.mode == "RGB" and depth == 16 and isinstance(key, tuple):
    image.info["transparency"] = tuple(level >> 8 for level in key)
  elif image.mode == "L" and depth < 8 and isinstance(key, int):
    image.info["transparency"] = key * 255 // (2**depth - 1)


def _to_rgb(image: Image.Image) -> Image.Image:
  if image.mode.startswith("I;16"):
    levels = np.asarray(image).astype(np.uint16)  # either byte order
    pixels = (levels >> 8).astype(np.uint8)
    if "transparency" in image.info:
      pixels[levels == image.info["transparency"]] = 255
    image = Image.fromarray(pixels)
  elif image.has_transparency_data:
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))  # in place: it may be large
    image = white
  elif image.mode in ("I", "F"):
    raise UndecodableImage("32-bit levels, whose range nothing tells")
  return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
  """The EXIF orientation (1 to 8) that Pillow has not yet applied."""
  try:
    return image.getexif().get(0x0112, 1)
  except Exception:  # damaged EXIF data does not spoil the pixels
    return 1


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
  """Turns uint8[H,W,3] upright from its EXIF orientation (1 to 8)."""
  if orientation in (5, 6, 7, 8):  # stored transposed
    pixels = pixels.swapaxes(0, 1)
  if orientation in (3, 4, 7, 8):
    pixels = pixels[::-1]
  if orientation in (2, 3, 6, 7):
    pixels = pixels[:, ::-1]
  return np.ascontiguousarray(pixels)


def _check_size(height: int, width: int) -> None:
  if height * width > MAX_PIXELS:
    raise UndecodableImage(
      f"{width} x {height} pixels are more than {MAX_PIXELS:,}"
    )


def rescale(image: np.ndarray, size: int = 256) -> np.ndarray:
  """uint8[H,W,3] -> uint8[size,size,3], as in the paper (section 2).

  Rescales the shorter side and crops the centre. A side longer than MAX_ASPECT
  times the other is cropped first, which bounds the size of the rescaled image.
  """
  image = _crop_center(image, MAX_ASPECT * min(image.shape[:2]))
  height, width = image.shape[:2]
  scale = size / min(height, width)
  if scale != 1:
    sides = round(width * scale), round(height * scale)
    image = _resize(image, sides, reduce=scale < 1)
  return _crop_center(image, size)


def warp(image: np.ndarray, size: int = 256) -> np.ndarray:
  """uint8[H,W,3] -> uint8[size,size,3]: rescales both sides, as Caffe's script.

  The reducing interpolation is used if either side is reduced.
  """
  if image.shape[:2] == (size, size):
    return image
  return _resize(image, (size, size), reduce=max(image.shape[:2]) > size)


def rescale_as_torchvision(image: np.ndarray, size: int = 256) -> np.ndarray:
  """uint8[H,W,3] -> uint8[size,size,3], as Resize(size), CenterCrop(size).

  Bilinear with antialiasing, by Pillow. A smaller centre crop of the result is
  torchvision's own if the margins are even, such as 224 of 256. A side longer
  than MAX_ASPECT times the other is cropped first, as in `rescale`.
  """
  image = _crop_center(image, MAX_ASPECT * min(image.shape[:2]))
  height, width = image.shape[:2]
  short = min(height, width)
  if short != size:
    sides = int(size * width / short), int(size * height / short)
    resized = Image.fromarray(image).resize(sides, Image.Resampling.BILINEAR)
    image = np.asarray(resized)
  # Half a pixel is rounded to even, unlike in `_crop_center`.
  top, left = (round((side - size) / 2) for side in image.shape[:2])
  return image[top : top + size, left : left + size]


def rescale_as_caffe(image: np.ndarray, size: int = 256) -> np.ndarray:
  """uint8[H,W,3] -> uint8[size,size,3], as convert_imageset of Caffe.

  Both sides, bilinear without antialiasing (OpenCV's default).
  """
  return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


# How an image gets its fixed size: (uint8[H,W,3], size) -> uint8[size,size,3].
RESCALE = {
  "crop": rescale,
  "warp": warp,
  "torchvision": rescale_as_torchvision,
  "caffe": rescale_as_caffe,
}


def _resize(image: np.ndarray, sides, reduce: bool) -> np.ndarray:
  """Interpolates to (width, height) `sides` as cuda-convnet2's make-data."""
  interpolation = cv2.INTER_AREA if reduce else cv2.INTER_CUBIC
  return cv2.resize(image, sides, interpolation=interpolation)


def _crop_center(image: np.ndarray, size: int) -> np.ndarray:
  top, left = (max(n - size, 0) // 2 for n in image.shape[:2])
  return image[top : top + size, left : left + size]
