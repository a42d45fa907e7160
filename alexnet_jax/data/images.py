"""Images: from encoded bytes to the fixed-size array the network is fed.

What the 2012 tools made of each image before training (paper, section 2;
`make-data` of cuda-convnet2).
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
MAX_ASPECT = 8  # what lies further out than this is far outside the crop

DIRECT_COLORS = ("YCbCr", "RGB", "Gray")  # CMYK is Pillow's
LARGE = 2**24  # pixels; a photograph seldom has more
_one_large_image = threading.Lock()

# Pillow only warns of a decompression bomb; here it is an image refused.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
# One image, one thread: the parallelism is over images.
cv2.setNumThreads(1)


class UndecodableImage(ValueError):
  """Bytes that no decoder makes an image of; the message is the reason."""


def decode(encoded: bytes, upright: bool = False) -> np.ndarray:
  """Makes uint8[H,W,3] RGB of a JPEG, PNG or whatever else Pillow reads.

  Greyscale is repeated, CMYK converted (Adobe's inverted kind too), what is
  transparent lies on white, of 16 bits the upper 8 count.

  Args:
    encoded: the file's bytes.
    upright: whether to turn the image as its EXIF orientation says; nobody
      does so with ImageNet, in 2012 or since.

  Raises:
    UndecodableImage: damaged, no image, or more than MAX_PIXELS; images too
      large are refused before they are decoded.
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
      pass  # damaged, perhaps harmlessly: Pillow decides
  if image is None:
    image = _decode_with_pillow(encoded)
  return _turn(image, encoded) if upright else image


def decode_into(out: np.ndarray, encoded: bytes) -> None:
  """Decodes and rescales an image into `out`, a contiguous uint8[S,S,3].

  A prepared image is decoded in place, which saves a tenth of the time.

  Raises:
    UndecodableImage: as `decode`; `out` may then hold anything.
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
      # Pillow wants several copies: one such image at a time bounds memory.
      large = image.height * image.width > LARGE
      with _one_large_image if large else contextlib.nullcontext():
        return np.array(_to_rgb(image))
  except UndecodableImage:
    raise
  # Damaged files make Pillow's readers raise nearly anything.
  except Exception as error:
    reason = str(error) or type(error).__name__
    # Pillow names the object it read from, with its address.
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
  except Exception:  # the pixels were read, so the image counts
    return image
  if orientation in (5, 6, 7, 8):  # stored with rows and columns exchanged
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
  """Makes uint8[size,size,3] of uint8[H,W,3]: short side, then centre crop.

  Paper, section 2. INTER_AREA to reduce and INTER_CUBIC to enlarge, as in
  cuda-convnet2's make-data. A side more than MAX_ASPECT times the other is
  cut down to that first, or a line of pixels would grow without bound.
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
  """Makes uint8[size,size,3] of uint8[H,W,3]: all of it, each axis to itself.

  Not the paper's: what others did instead of `rescale`, and what that may be
  compared with. INTER_AREA if either axis is reduced, else INTER_CUBIC.
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
