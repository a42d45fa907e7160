"""Picture files: finding them in folders, and reading one of any size."""

import os
import stat
from collections.abc import Sequence

import numpy as np
from PIL import Image

from alexnet_jax.data import images
from alexnet_jax.data.images import UndecodableImage
from alexnet_jax.runtime.command import UserError

MAX_BYTES = 2**29  # of a file; MAX_PIXELS in 16 bits, not compressed, fit

# A file, an image of Pillow, or an array: RGB uint8[H,W,3] or grey uint8[H,W].
Picture = str | os.PathLike | Image.Image | np.ndarray


def find(places: Sequence[str]) -> tuple[list[str], list[str]]:
  """The pictures among files and in folders, and what is left out of folders.

  Folders are searched with all folders in them, in the order of the names. In a
  folder only files with one of `images.suffixes` count; a file that is named
  itself always does. Hidden files and links to folders are left out.

  Returns:
    The paths of the pictures, and of the files and folders that are left out.

  Raises:
    UserError: a place does not exist, or is neither a file nor a folder.
  """
  found, left_out = [], []
  for place in places:
    if os.path.isdir(place):
      _search(place, found, left_out)
    elif os.path.isfile(place):
      found.append(place)
    else:
      exists = os.path.lexists(place)
      raise UserError(
        f"{place} is neither a file nor a folder."
        if exists
        else f"{place} does not exist: give picture files or folders of them."
      )
  return found, left_out


def _search(folder: str, found: list[str], left_out: list[str]) -> None:
  def fail(error: OSError):
    raise UserError(
      f"the folder {error.filename} cannot be read ({error.strerror})."
    )

  for directory, folders, files in os.walk(folder, onerror=fail):
    folders.sort()
    for name in list(folders):
      path = os.path.join(directory, name)
      if name.startswith(".") or os.path.islink(path):
        folders.remove(name)
        left_out.append(path)
    for name in sorted(files):
      path = os.path.join(directory, name)
      is_picture = name.lower().endswith(images.suffixes()) and os.path.isfile(
        path
      )
      hidden = name.startswith(".")
      (found if is_picture and not hidden else left_out).append(path)


def read(picture: Picture, upright: bool = False) -> np.ndarray:
  """The pixels of a picture, uint8[H,W,3], decoded as training decodes them.

  Raises:
    UndecodableImage: it is damaged or not an image; the message is the reason.
  """
  if not isinstance(picture, str | os.PathLike):
    return images.to_rgb(picture, upright)
  try:
    status = os.stat(picture)  # before opening: a pipe would be waited for
    if not stat.S_ISREG(status.st_mode):
      raise UndecodableImage("it is not a file")
    if status.st_size > MAX_BYTES:
      raise UndecodableImage(
        f"it has {status.st_size:,} bytes, more than {MAX_BYTES:,}"
      )
    with open(picture, "rb") as file:
      encoded = file.read(MAX_BYTES)
  except OSError as error:
    raise UndecodableImage(error.strerror or str(error)) from None
  if not encoded:
    raise UndecodableImage("the file is empty")
  return images.decode(encoded, upright)
