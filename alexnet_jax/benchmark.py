"""Times the training step and the input pipeline, with a yardstick beside.

  python -m alexnet_jax.benchmark step [--config=FILE] [--batch_size=N]
      [--mesh=data:1,model:2]
  python -m alexnet_jax.benchmark input [--dataset=NAME] [--data_dir=DIR]
  python -m alexnet_jax.benchmark end_to_end [flags of step and input]

step: the training step and inference, compiled as training and evaluation
compile them, beside a large float32 matrix product and a large memory copy.
input: reading, decoding, batching, transfer and the whole pipeline, beside
decoding the same bytes on all cores.
end_to_end: training from files, beside the step alone and the input alone.
"""

import json
import sys

from absl import flags

from alexnet_jax.analysis import input_timing, programs, timing
from alexnet_jax.data import parallel, pipeline, sources
from alexnet_jax.model import sharding
from alexnet_jax.runtime import command, files, paths, processes, provenance
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.progress import waiting
from alexnet_jax.runtime.values import MAX_INTEGER, MAX_SIDE
from alexnet_jax.training.job import make_recipe


def main(what: str) -> None:
  processes.configure()
  work = {"step": _step, "input": _input, "end_to_end": _end_to_end}
  with waiting(f"timing {what}, which takes a minute or two"):
    rows, details, message = work[what]()
  timing.print_rows(rows)
  print(message)
  if flags.FLAGS.json:
    machine_paths = ("--data_dir", "--json")
    argv = [a for a in sys.argv[1:] if not a.startswith(machine_paths)]
    line = " ".join(["python -m alexnet_jax.benchmark", *argv])
    result = {"rows": rows} | details
    record = provenance.record(f"benchmark {what}", line, result)
    files.write_atomic(flags.FLAGS.json, json.dumps(record, indent=1))


def _step():
  recipe, mesh = _recipe_and_mesh()
  rows, found = timing.benchmark_step(recipe, mesh)
  message = (
    "share of the measured matrix product's FLOP/s: training"
    f" {found.share_of_peak['train']:.0%}, inference"
    f" {found.share_of_peak['inference']:.0%}; training reaches"
    f" {found.share_of_roofline:.0%} of the roofline\n"
    f"first step, with compilation, after {found.seconds_to_first_step:.0f} s\n"
    f"per device, a training step moves {found.bytes_accessed / 1e9:.1f} GB and"
    f" needs {found.memory_bytes['arguments'] / 1e9:.2f} GB for arguments,"
    f" {found.memory_bytes['temporaries'] / 1e9:.2f} GB for temporaries"
  )
  return rows, found._asdict() | {"mesh": dict(mesh.shape)}, message


def _end_to_end():
  recipe, mesh = _recipe_and_mesh()
  source = _source()
  if source.num_classes > recipe.network.num_classes:
    raise command.UserError(
      f"{source.name} has {source.num_classes} classes, but the network has"
      f" only {recipe.network.num_classes}: set"
      f" --config.num_classes={source.num_classes}."
    )

  def batches():
    host = pipeline.train_batches(
      source,
      batch_size=recipe.batch_size,
      seed=0,
      start_step=0,
      size=recipe.image_size,
      rescale=recipe.pixels.rescale,
      crops=recipe.crops(0, mesh),
    )
    return pipeline.to_device(host, sharding.batch_sharding(mesh))

  rows, found = timing.benchmark_end_to_end(recipe, mesh, batches)
  message = (
    f"{found.share_of_step:.1%} of the images/s of the step alone; the step"
    f" waits for images {found.waited:.1%} of the time; the slower part is the"
    f" {found.limited_by}"
  )
  return rows, found._asdict() | {"mesh": dict(mesh.shape)}, message


def _input():
  source, need = _source(), flags.FLAGS.need
  rows, from_storage = input_timing.benchmark_input(
    source, batch_size=flags.FLAGS.batch_size, size=flags.FLAGS.size
  )
  rates = {row["name"]: row["images_per_second"] for row in rows}
  cores, rate = parallel.num_cores(), rates["pipeline"]
  share = rate / rates["decode_all_cores"]
  message = (
    f"{source.name}: the pipeline reaches {share:.0%} of bare decoding on"
    f" {cores} cores; {need:,.0f} images/s need {need * cores / rate:.1f} such"
    " cores"
  )
  if from_storage is not None:
    message += (
      f"\nof the bytes read, {from_storage:.0%} came from storage, the rest"
      " from the page cache"
    )
  return rows, {"from_storage": from_storage}, message


def _recipe_and_mesh():
  config = flags.FLAGS.config or configs.load("configs/paper.py")
  recipe = make_recipe(config, flags.FLAGS.batch_size)
  towers = recipe.network.towers
  mesh = programs.make_mesh(config.mesh, flags.FLAGS.mesh, towers)
  sharding.check_batch_size(recipe.batch_size, mesh)
  recipe.check_memory(mesh)
  print(sharding.describe_mesh(mesh))
  return recipe, mesh


def _source():
  flag = flags.FLAGS
  if flag.data_dir and not flag.dataset:
    raise command.UserError(
      f"--data_dir={flag.data_dir} is given without --dataset: add"
      " --dataset=NAME, one of the datasets in it."
    )
  dataset = flag.dataset or "patterns/10"
  return sources.open_split(dataset, flag.split, flag.data_dir)


if __name__ == "__main__":
  configs.DEFINE_config(required=False)
  flags.DEFINE_string(
    "mesh", "", "devices, such as data:1,model:2; default: the configuration's"
  )
  flags.DEFINE_integer("batch_size", 128, "images in a batch", 1, MAX_INTEGER)
  flags.DEFINE_string("dataset", "", "tfds name; default: patterns/10")
  flags.DEFINE_string("split", "train", "split of the dataset")
  paths.DEFINE_path("data_dir", "", "directory that holds the dataset")
  flags.DEFINE_integer(
    "size", 256, "input: side of the images in pixels", 1, MAX_SIDE
  )
  flags.DEFINE_float("need", 1000, "input: images/s that training needs", 0)
  paths.DEFINE_output("json", "", "JSON file for the result")
  command.run(main, "step", "input", "end_to_end")
