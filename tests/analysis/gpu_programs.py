"""Saved programs: a narrow training step, compiled for four H100s.

  PYTHONPATH=gpu-compiler python tests/analysis/gpu_programs.py

writes the one of the installed JAX; `alexnet_jax.audit --topology=h100:4` says
what to install into gpu-compiler.
"""

import gzip
import pathlib
import re

import jax

from alexnet_jax.analysis import collectives, topologies
from alexnet_jax.model import sharding
from alexnet_jax.model.network import Network
from alexnet_jax.training.job import Recipe

FOLDER = pathlib.Path(__file__).parent / "saved_programs"
RECIPE = Recipe(Network(width=1 / 16, num_classes=10), batch_size=8)
DATA, MODEL = 2, 2


def saved() -> dict[str, str]:
  """The saved texts by the version of JAX that made them."""
  return {
    path.name.removesuffix(".txt.gz"): gzip.decompress(
      path.read_bytes()
    ).decode()
    for path in sorted(FOLDER.glob("*.txt.gz"))
  }


def main() -> None:
  devices = topologies.compile_only_devices("h100:4")
  mesh = sharding.make_mesh(DATA, MODEL, towers=2, devices=devices)
  step = RECIPE.train_step(mesh).lower(*RECIPE.abstract_arguments(mesh))
  text = step.compile().as_text()
  # Not needed: the choices of the compiler, and places in source files.
  text = re.sub(r", backend_config=\{.*\}$", "", text, flags=re.MULTILINE)
  text = re.sub(r' (scheduling_name="[^"]*"|stack_frame_id=\d+)', "", text)
  text = re.sub(r', metadata=\{scheduling_name="[^"]*"\}', "", text)
  # Nor are fusions, but for those that join arrays or part them again.
  computations = re.findall(r"^(?:ENTRY )?%.*?^\}$", text, re.M | re.S)
  needed = re.compile(
    f"ENTRY|ROOT .* (concatenate|slice)\\(|({collectives.OPS})\\("
  )
  text = "\n".join(filter(needed.search, computations))
  FOLDER.mkdir(exist_ok=True)
  packed = gzip.compress(text.encode(), mtime=0)
  (FOLDER / f"{jax.__version__}.txt.gz").write_bytes(packed)
  print(f"{jax.__version__}: {len(text):,} bytes, {len(packed):,} compressed")


if __name__ == "__main__":
  main()
