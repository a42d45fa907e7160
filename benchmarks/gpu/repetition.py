"""Repetition: whether training gives the same bits again, and at what price."""

import hashlib
import json
import os
import subprocess
import sys

import jax
import numpy as np

from alexnet_jax.model import sharding
from benchmarks.gpu.record import Record
from benchmarks.gpu.sizes import Sizes

STEPS = 4
# What the compiler is asked for; it chooses kernels anew in each process,
# because nothing is kept between them.
FLAGS = {
  "default": "",
  "deterministic": "--xla_gpu_deterministic_ops=true",
  "without atomic additions": "--xla_gpu_exclude_nondeterministic_ops=true",
}


def repetition(record: Record, sizes: Sizes) -> None:
  """Digests of the state after some steps, twice in each of two processes."""
  flags = dict(FLAGS)
  if jax.default_backend() == "cpu":
    flags = {"default": ""}  # the others are a GPU's
  for name, flag in flags.items():
    with record.trying(name):
      processes = [_start(sizes, flag) for _ in range(2)]
      record[name] = {
        "equal in one process": all(
          len(set(found["digests"])) == 1 for found in processes
        ),
        "equal in another process": (
          processes[0]["digests"][0] == processes[1]["digests"][0]
        ),
        "ms of a step": [found["ms"] for found in processes],
      }


def _start(sizes: Sizes, flag: str) -> dict:
  environment = os.environ | {
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip(),
    "JAX_ENABLE_COMPILATION_CACHE": "false",
  }
  tiny = ["--tiny"] if sizes.tiny else []
  done = subprocess.run(
    [sys.executable, "-m", "benchmarks.gpu", "--stage=digest", *tiny],
    capture_output=True,
    text=True,
    env=environment,
  )
  if done.returncode:
    raise RuntimeError(done.stderr[-400:])
  return json.loads(done.stdout.splitlines()[-1])


def digest(record: Record, sizes: Sizes) -> None:
  """Prints digests of two trainings of the same steps as JSON."""
  mesh = sharding.make_mesh(1, 1)
  recipe = sizes.recipe("float32", sizes.batches[0])
  arguments = recipe.abstract_arguments(mesh)
  run = recipe.train_step(mesh).lower(*arguments).compile()
  digests = []
  for _ in range(2):
    state, *inputs = recipe.random_arguments(mesh)
    for _ in range(STEPS):
      state, _ = run(state, *inputs)
    whole = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
      whole.update(np.asarray(leaf).tobytes())
    digests.append(whole.hexdigest())

  def train():
    nonlocal state
    state, metrics = run(state, *inputs)
    return metrics

  ms = record.time(train, jax.block_until_ready)["median"]
  print(json.dumps({"digests": digests, "ms": ms}))
