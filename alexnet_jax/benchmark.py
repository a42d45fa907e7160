"""Times what feeds and what trains the network, with a yardstick beside.

  python -m alexnet_jax.benchmark input [--dataset=NAME] [--data_dir=DIR]

input: reading, decoding, batching, transfer, and the pipeline of them all;
the yardstick is the bare decoding of the same bytes on all cores.
"""

import json

from absl import flags

from alexnet_jax import command, files, provenance, throughput

_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "images in a batch", 1)
_DATA_DIR = flags.DEFINE_string("data_dir", "", "folder that holds datasets")
_DATASET = flags.DEFINE_string("dataset", "patterns/10", "tfds name")
_SPLIT = flags.DEFINE_string("split", "train", "input: of the dataset")
_SIZE = flags.DEFINE_integer("size", 256, "input: side of the images", 1)
_NEED = flags.DEFINE_float("need", 1000, "input: images/s to feed", 0)
_JSON = flags.DEFINE_string("json", "", "file to write the figures into")


def main(what: str) -> None:
  del what
  rows = _input_rows()
  throughput.show(rows)
  if _JSON.value:
    import jax

    result = {
      "hardware": provenance.hardware(),
      "jax": jax.__version__,
      "rows": rows,
    }
    details = {
      "commit": provenance.git_commit(),
      "versions": provenance.versions(),
    }
    files.write_whole(_JSON.value, json.dumps(result | details, indent=1))


def _input_rows():
  from alexnet_jax import benchmark_input, datasets

  source = datasets.open_split(_DATASET.value, _SPLIT.value, _DATA_DIR.value)
  rows = benchmark_input.benchmark_input(
    source, batch_size=_BATCH_SIZE.value, size=_SIZE.value
  )
  rates = {row["name"]: row["images_per_second"] for row in rows}
  cores = datasets.num_cores()
  print(
    f"{source.name}: the pipeline gives"
    f" {rates['pipeline'] / rates['decode_all_cores']:.0%} of bare decoding on"
    f" {cores} cores; {_NEED.value:,.0f} images/s need"
    f" {_NEED.value * cores / rates['pipeline']:.1f} cores like these."
  )
  return rows


if __name__ == "__main__":
  command.run(main, "input")
