"""What a program sets before it computes."""

import platform
import subprocess
import sys

import jax
import pytest

from alexnet_jax.runtime import startup

FAULTS = """
import resource, sys
import numpy as np
if sys.argv[1] == "keep":
  from alexnet_jax.runtime import startup
  assert startup.keep_memory()
def faults():
  np.ones(100_000_000, np.uint8)
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
faults()
before = faults()
print(faults() - before)
"""


@pytest.mark.skipif(
  platform.libc_ver()[0] != "glibc", reason="another C library's allocator"
)
def test_kept_memory_is_not_mapped_again():
  def faults(how):
    return int(
      subprocess.run(
        [sys.executable, "-c", FAULTS, how],
        check=True,
        capture_output=True,
        text=True,
      ).stdout
    )

  assert faults("keep") < 100
  assert faults("leave") > 20 * max(faults("keep"), 1)


def test_compilations_are_kept_where_the_user_says(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  before = jax.config.jax_compilation_cache_dir
  try:
    jax.config.update("jax_compilation_cache_dir", None)
    startup.keep_compilations()
    expected = str(tmp_path / "alexnet_jax" / "compiled")
    assert jax.config.jax_compilation_cache_dir == expected
    jax.config.update("jax_compilation_cache_dir", "/elsewhere")
    startup.keep_compilations()
    assert jax.config.jax_compilation_cache_dir == "/elsewhere"
  finally:
    jax.config.update("jax_compilation_cache_dir", before)
