"""Tar members: the files in a tar, which are read at their place."""

import pathlib
import tarfile
from collections.abc import Iterator

from alexnet_jax.runtime.command import UserError

# Name, first byte and number of bytes of a file in a tar.
Members = Iterator[tuple[str, int, int]]


def members(
  path: pathlib.Path, left_out: list[str], start: int = 0, size: int = -1
) -> Members:
  """Yields the files in a tar, or in the tar at `start` within a tar."""
  end = path.stat().st_size if size < 0 else start + size
  with open(path, "rb") as file:
    file.seek(start)
    try:
      with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
          tar.members = []  # keeps memory constant
          if member.isreg() and not member.issparse():
            if member.offset_data + member.size > end:
              raise tarfile.TarError(f"{member.name} is incomplete")
            yield member.name, member.offset_data, member.size
          elif not member.isdir():
            left_out.append(f"{path.name}: {member.name} is no regular file")
        # tarfile takes damage between two members for the end of the tar.
        file.seek(tar.offset)
        if file.read(512) != bytes(512):
          raise tarfile.TarError(f"no header at byte {tar.offset:,}")
    except (tarfile.TarError, OSError, EOFError) as error:
      raise UserError(
        f"{path} is damaged or cut short: {error}. Download it again."
      ) from error
