"""Files that are there as a whole or not at all."""

import os
import pathlib


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
  """Replaces a file: a reader or a kill meets the old one or the new one.

  Args:
    path: of the file; its folder is created when needed.
    content: all of it.

  Raises:
    OSError: it cannot be written; the old file is as it was.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f"{path.name}.{os.getpid()}.new")
  data = content.encode() if isinstance(content, str) else content
  try:
    with open(beside, "wb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(beside, path)
  finally:
    beside.unlink(missing_ok=True)
