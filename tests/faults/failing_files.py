"""Makes calls for files fail in a process, by a library that gcc builds."""

import ctypes
import errno
import os
import pathlib
import subprocess

SOURCE = pathlib.Path(__file__).with_suffix(".c")


def build(folder: str | os.PathLike) -> str:
  """Compiles the library into a folder; returns its path for LD_PRELOAD."""
  library = pathlib.Path(folder).absolute() / "failing_files.so"
  if not library.exists():
    flags = ["-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(["gcc", *flags], check=True)
  return str(library)


def environment(
  library: str, folder: str, call: str, error: int, first: int, count: int
) -> dict[str, str]:
  """The environment of a process in which calls fail from its start.

  Args:
    library: of `build`.
    folder: calls for files in it fail; its path has no space.
    call: open, read, write, fsync, close, rename, mkdir, unlink, rmdir, stat,
      opendir or readdir.
    error: the number, such as `errno.EIO`.
    first: the first call that fails, from 1.
    count: how many calls fail.
  """
  fault = f"{folder} {call} {error} {first} {count}"
  return {"LD_PRELOAD": library, "FAILING_FILES": fault}


def fail(
  folder: str, call: str = "", error: int = 0, first: int = 1, count: int = 1
) -> None:
  """Sets what fails in this process, which has the library preloaded."""
  library = ctypes.CDLL(os.environ["LD_PRELOAD"])
  library.failing_files_set(folder.encode(), call.encode(), error, first, count)


def num_calls() -> int:
  """How many calls of the kind there were since `fail`."""
  return ctypes.CDLL(os.environ["LD_PRELOAD"]).failing_files_seen()


# What a network file system answers, and what disks and quotas do.
WRITING = (
  ("mkdir", errno.EACCES),
  ("mkdir", errno.ESTALE),
  ("open", errno.EIO),
  ("open", errno.ESTALE),
  ("open", errno.EMFILE),
  ("open", errno.EROFS),
  ("write", errno.EIO),
  ("write", errno.ENOSPC),
  ("write", errno.EDQUOT),
  ("write", errno.EINTR),
  ("fsync", errno.EIO),
  ("fsync", errno.EDQUOT),
  ("close", errno.EIO),
  ("close", errno.EDQUOT),
  ("rename", errno.EIO),
  ("rename", errno.ESTALE),
  ("stat", errno.ESTALE),
  ("unlink", errno.EBUSY),
  ("rmdir", errno.ENOTEMPTY),
  ("readdir", errno.EIO),
)
READING = (
  ("open", errno.EIO),
  ("open", errno.ESTALE),
  ("open", errno.EACCES),
  ("open", errno.ENOENT),
  ("open", errno.ENOMEM),
  ("open", errno.EMFILE),
  ("read", errno.EIO),
  ("read", errno.ESTALE),
  ("read", errno.ENOMEM),
  ("read", errno.EINTR),
  ("stat", errno.EIO),
  ("stat", errno.ESTALE),
  ("opendir", errno.ESTALE),
  ("readdir", errno.EIO),
)
