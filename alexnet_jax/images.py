"""Images: from encoded bytes to the fixed-size array the network is fed.

What the 2012 tools made of each image before training (paper, section 2;
`make-data` of cuda-convnet2).
"""

import io
import re
import warnings

import cv2
import numpy as np
import simplejpeg
from PIL import Image

MAX_PIXELS = 2**30 // 4 // 3  # Pillow's own bound, 89 million: 268 MB as RGB
MAX_ASPECT = 8  # what lies further out than this is far outside the crop

# Pillow only warns of a decompression bomb; here it is an image refused.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
# One image, one thread: the parallelism is over images.
cv2.setNumThreads(1)


class UndecodableImage(ValueError):
  """Bytes that no decoder makes an image of; the message is the reason."""


def decode(encoded: bytes) -> np.ndarray:
  """Makes uint8[H,W,3] RGB of a JPEG, PNG or whatever else Pillow reads.

  Greyscale is repeated, CMYK converted (Adobe's inverted kind too), what is
  transparent lies on white, of 16 bits the upper 8 count. EXIF orientation is
  ignored, as in 2012 and by every ImageNet pipeline since.

  Raises:
    UndecodableImage: damaged, no image, or more than MAX_PIXELS; images too
      large are refused before they are decoded.
  """
  if encoded[:3] == b"\xff\xd8\xff":
    try:
      height, width, colors, _ = simplejpeg.decode_jpeg_header(encoded)
      if height * width > MAX_PIXELS:
        raise UndecodableImage(_too_large(height, width))
      if colors in ("YCbCr", "RGB", "Gray"):  # CMYK is Pillow's
        return simplejpeg.decode_jpeg(encoded)
    except UndecodableImage:
      raise
    except ValueError:
      pass  # damaged, perhaps harmlessly: Pillow decides
  return _decode_with_pillow(encoded)


def _decode_with_pillow(encoded: bytes) -> np.ndarray:
  try:
    with Image.open(io.BytesIO(encoded)) as image:
      if image.width * image.height > MAX_PIXELS:
        raise UndecodableImage(_too_large(image.height, image.width))
      if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
      elif image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.uint16)  # either byte order
        image = Image.fromarray((levels >> 8).astype(np.uint8))
      elif image.mode in ("I", "F"):
        raise UndecodableImage("32-bit levels, whose range nothing tells")
      return np.array(image.convert("RGB"))
  except UndecodableImage:
    raise
  except Image.DecompressionBombError as error:
    raise UndecodableImage(str(error)) from error
  # Damaged files make Pillow's readers raise nearly anything.
  except Exception as error:
    reason = str(error) or type(error).__name__
    # Pillow names the object it read from, with its address.
    reason = re.sub(r" <_io.BytesIO.*>", "", reason)
    raise UndecodableImage(reason) from error


def _too_large(height: int, width: int) -> str:
  return f"{width} x {height} pixels are more than {MAX_PIXELS:,}"


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


def _crop_center(image: np.ndarray, size: int) -> np.ndarray:
  top, left = (max(n - size, 0) // 2 for n in image.shape[:2])
  return image[top : top + size, left : left + size]
