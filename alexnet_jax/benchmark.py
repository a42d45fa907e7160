"""Times what feeds and what trains the network, with a yardstick beside.

  python -m alexnet_jax.benchmark step [--config=FILE] [--batch_size=N]
      [--mesh=data:1,model:2]
  python -m alexnet_jax.benchmark input [--dataset=NAME] [--data_dir=DIR]
  python -m alexnet_jax.benchmark end_to_end [the flags of both]

step: the training step and inference as training and evaluation compile them;
the yardsticks are a large product of float32 matrices and a large copy.
input: reading, decoding, batching, transfer, and the pipeline of them all;
the yardstick is the bare decoding of the same bytes on all cores.
end_to_end: training from the files, beside the step and the input alone.
"""

import json
import sys

from absl import flags

from alexnet_jax.analysis import throughput
from alexnet_jax.runtime import command, files, provenance
from alexnet_jax.runtime import config as configs

_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "images in a batch", 1)
_DATA_DIR = flags.DEFINE_string("data_dir", "", "folder that holds datasets")
_DATASET = flags.DEFINE_string("dataset", "patterns/10", "tfds name")
_SPLIT = flags.DEFINE_string("split", "train", "input: of the dataset")
_SIZE = flags.DEFINE_integer("size", 256, "input: side of the images", 1)
_NEED = flags.DEFINE_float("need", 1000, "input: images/s to feed", 0)
_JSON = flags.DEFINE_string("json", "", "file to write the figures into")


def main(what: str) -> None:
  from alexnet_jax.runtime import processes

  processes.configure()
  details = {}
  if what == "input":
    rows = _input_rows()
  else:
    rows, details = _step_rows(what)
  throughput.show(rows)
  if _JSON.value:
    places = ("--data_dir", "--json")
    argv = [a for a in sys.argv[1:] if not a.startswith(places)]
    record = provenance.record(
      f"benchmark {what}",
      " ".join(["python -m alexnet_jax.benchmark", *argv]),
      {"rows": rows} | details,
    )
    files.write_atomic(_JSON.value, json.dumps(record, indent=1))


def _step_rows(what):
  """Rows and details of "step" or "end_to_end"."""
  from alexnet_jax import audit
  from alexnet_jax.analysis import benchmark_step
  from alexnet_jax.data import pipeline, sources
  from alexnet_jax.model import sharding
  from alexnet_jax.training import recipe as recipes

  config = _CONFIG.value or configs.load("configs/paper.py")
  sizes = audit.parse_mesh(_MESH.value)
  recipe = recipes.from_config(config.to_dict(), _BATCH_SIZE.value)
  mesh = sharding.make_mesh(
    sizes.get(sharding.DATA, config.mesh.data),
    sizes.get(sharding.MODEL, config.mesh.model),
    towers=recipe.network.towers,
  )
  sharding.check_batch_size(recipe.batch_size, mesh)
  print(sharding.describe_mesh(mesh))
  if what == "step":
    rows, details = benchmark_step.benchmark_step(recipe, mesh)
    shares = details["share_of_peak"]
    memory = details["memory_bytes"]
    print(
      f"{shares['train']:.0%} of the measured matmul peak in training"
      f" ({details['share_of_roofline']:.0%} of the roofline),"
      f" {shares['inference']:.0%} in inference; first step after"
      f" {details['seconds_to_first_step']:.0f} s\n"
      f"a step moves {details['bytes_accessed'] / 1e9:.1f} GB on a device and"
      f" needs {memory['arguments'] / 1e9:.2f} GB for arguments,"
      f" {memory['temporaries'] / 1e9:.2f} GB for temporaries"
    )
  else:
    source = sources.open_split(_DATASET.value, _SPLIT.value, _DATA_DIR.value)
    if source.num_classes > recipe.network.num_classes:
      raise command.UserError(
        f"{_DATASET.value} has {source.num_classes} classes and the network"
        f" {recipe.network.num_classes}: set --config.num_classes."
      )

    def batches():
      host = pipeline.train_batches(
        source,
        batch_size=recipe.batch_size,
        seed=0,
        start_step=0,
        size=recipe.image_size,
      )
      return pipeline.to_device(host, sharding.batch_sharding(mesh))

    rows, details = benchmark_step.benchmark_end_to_end(recipe, mesh, batches)
    print(
      f"{details['share_of_step']:.1%} of the step's own rate; the step waited"
      f" {details['waited']:.1%} of the time; {details['limited_by']} limits"
    )
  return rows, details | {"mesh": dict(mesh.shape)}


def _input_rows():
  from alexnet_jax.analysis import benchmark_input
  from alexnet_jax.data import parallel, sources

  source = sources.open_split(_DATASET.value, _SPLIT.value, _DATA_DIR.value)
  rows = benchmark_input.benchmark_input(
    source, batch_size=_BATCH_SIZE.value, size=_SIZE.value
  )
  rates = {row["name"]: row["images_per_second"] for row in rows}
  cores = parallel.num_cores()
  print(
    f"{source.name}: the pipeline gives"
    f" {rates['pipeline'] / rates['decode_all_cores']:.0%} of bare decoding on"
    f" {cores} cores; {_NEED.value:,.0f} images/s need"
    f" {_NEED.value * cores / rates['pipeline']:.1f} cores like these."
  )
  return rows


if __name__ == "__main__":
  _CONFIG = configs.DEFINE_config(required=False)
  _MESH = flags.DEFINE_string("mesh", "", "such as data:1,model:2")
  command.run(main, "step", "input", "end_to_end")
