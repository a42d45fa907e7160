"""Images: decoding and rescaling to a fixed size.

The pixels are those that the tools of 2012 made (paper, section 2; `make-data`
of cuda-convnet2).
"""

import contextlib
import io
import re
import threading
import warnings

import cv2
import numpy as np
import simplejpeg
from PIL import Image

MAX_PIXELS = 2**26  # 8192 x 8192: 200 MB as RGB
MAX_ASPECT = 8  # of the sides; pixels further out are far outside the crop

# Colour spaces that simplejpeg decodes; Pillow decodes CMYK.
DIRECT_COLORS = ("YCbCr", "RGB", "Gray")
LARGE = 2**24  # pixels; photographs seldom have more
_one_large_image = threading.Lock()

# Pillow only warns of a decompression bomb; here it is an error.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
# One thread per image, because images are processed in parallel.
cv2.setNumThreads(1)


class UndecodableImage(ValueError):
  """Bytes that cannot be decoded as an image; the message is the reason."""


def decode(encoded: bytes, upright: bool = False) -> np.ndarray:
  """Decodes a JPEG, PNG or any other format of Pillow to uint8[H,W,3] RGB.

  Grey is repeated in all channels, CMYK (also Adobe's inverted kind) is
  converted, transparent images are placed on white, and of 16 bits the upper
  8 are kept.

  Args:
    encoded: the file's bytes.
    upright: whether to turn the image as its EXIF orientation says; not done
      for ImageNet, in 2012 or since.

  Raises:
    UndecodableImage: the bytes are damaged or not an image, or the image has
      more than MAX_PIXELS, which is found before decoding it.
  """
  image = None
  if encoded[:3] == b"\xff\xd8\xff":
    try:
      height, width, colors, _ = simplejpeg.decode_jpeg_header(encoded)
      _check_size(height, width)
      if colors in DIRECT_COLORS:
        image = simplejpeg.decode_jpeg(encoded)
    except UndecodableImage:
      raise
    except ValueError:
      pass  # Pillow may tolerate the damage
  if image is None:
    image = _decode_with_pillow(encoded)
  return _turn(image, encoded) if upright else image


def decode_into(out: np.ndarray, encoded: bytes) -> None:
  """Decodes and rescales an image into `out`, a contiguous uint8[S,S,3].

  An image of that size is decoded in place, which saves a tenth of the time.

  Raises:
    UndecodableImage: as `decode`; the content of `out` is then undefined.
  """
  if encoded[:3] == b"\xff\xd8\xff":
    try:
      height, width, colors, _ = simplejpeg.decode_jpeg_header(encoded)
      if (height, width) == out.shape[:2] and colors in DIRECT_COLORS:
        simplejpeg.decode_jpeg(encoded, buffer=out)
        return
    except ValueError:
      pass
  out[:] = rescale(decode(encoded), len(out))


def _decode_with_pillow(encoded: bytes) -> np.ndarray:
  try:
    with _open(encoded) as image:
      _check_size(image.height, image.width)
      # Pillow makes several copies: one large image at a time bounds memory.
      large = image.height * image.width > LARGE
      with _one_large_image if large else contextlib.nullcontext():
        return np.array(_to_rgb(image))
  except UndecodableImage:
    raise
  # On damaged files Pillow raises exceptions of nearly any type.
  except Exception as error:
    reason = str(error) or type(error).__name__
    # Without the address of the object that Pillow read.
    reason = re.sub(r" <_io.BytesIO.*>", "", reason)
    raise UndecodableImage(reason) from error


def _open(encoded: bytes) -> Image.Image:
  return Image.open(io.BytesIO(encoded))


def _to_rgb(image: Image.Image) -> Image.Image:
  if image.has_transparency_data:
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))  # in place: it may be large
    image = white
  elif image.mode.startswith("I;16"):
    levels = np.asarray(image).astype(np.uint16)  # either byte order
    image = Image.fromarray((levels >> 8).astype(np.uint8))
  elif image.mode in ("I", "F"):
    raise UndecodableImage("32-bit levels, whose range nothing tells")
  return image.convert("RGB")


def _turn(image: np.ndarray, encoded: bytes) -> np.ndarray:
  """Turns an image upright as its EXIF orientation (1 to 8) says."""
  try:
    with _open(encoded) as opened:
      orientation = opened.getexif().get(0x0112, 1)
  except Exception:  # damaged EXIF data does not spoil the pixels
    return image
  if orientation in (5, 6, 7, 8):  # stored transposed
    image = image.swapaxes(0, 1)
  if orientation in (3, 4, 7, 8):
    image = image[::-1]
  if orientation in (2, 3, 6, 7):
    image = image[:, ::-1]
  return np.ascontiguousarray(image)


def _check_size(height: int, width: int) -> None:
  if height * width > MAX_PIXELS:
    raise UndecodableImage(
      f"{width} x {height} pixels are more than {MAX_PIXELS:,}"
    )


def rescale(image: np.ndarray, size: int = 256) -> np.ndarray:
  """Rescales the shorter side and crops the centre, as the paper (section 2).

  INTER_AREA reduces and INTER_CUBIC enlarges, as in cuda-convnet2's make-data.
  A side longer than MAX_ASPECT times the other is cropped to that first, which
  bounds the size of the rescaled image.

  Args:
    image: uint8[H,W,3].
    size: side S of the result.

  Returns:
    uint8[S,S,3].
  """
  image = _crop_center(image, MAX_ASPECT * min(image.shape[:2]))
  height, width = image.shape[:2]
  scale = size / min(height, width)
  if scale != 1:
    image = cv2.resize(
      image,
      (round(width * scale), round(height * scale)),
      interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC,
    )
  return _crop_center(image, size)


def warp(image: np.ndarray, size: int = 256) -> np.ndarray:
  """Rescales both sides to `size`: uint8[H,W,3] -> uint8[size,size,3].

  Caffe's script did this instead of `rescale`. INTER_AREA if either side is
  reduced, else INTER_CUBIC.
  """
  if image.shape[:2] == (size, size):
    return image
  reduced = max(image.shape[:2]) > size
  return cv2.resize(
    image,
    (size, size),
    interpolation=cv2.INTER_AREA if reduced else cv2.INTER_CUBIC,
  )


def _crop_center(image: np.ndarray, size: int) -> np.ndarray:
  top, left = (max(n - size, 0) // 2 for n in image.shape[:2])
  return image[top : top + size, left : left + size]
