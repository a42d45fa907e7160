"""Prints the network of a configuration as a table, one line per layer.

  python -m alexnet_jax.describe --config=configs/NAME.py [--json=FILE]
      [--beside=configs/OTHER.py]

Shapes are those of one tower, before pooling. Parameters and multiply-adds (of
the forward pass of one image) are those of all towers. Bytes are of float32.
"""

import json
from collections.abc import Mapping
from typing import Any

from absl import flags
from rich.console import Console
from rich.table import Table

from alexnet_jax.model import network as networks
from alexnet_jax.model.shapes import layer_counts
from alexnet_jax.runtime import command, paths
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.files import write_atomic


def print_table(counts: Mapping[str, Any], title: str) -> None:
  """Prints `layer_counts(...)` under `title`."""
  table = Table("layer", "output of a tower", "reads", title=title)
  table.columns[1].no_wrap = True
  for name in (
    "parameters",
    "multiply-adds",
    "parameter MB",
    "output kB/image",
  ):
    table.add_column(name, justify="right")
  for layer in counts["layers"]:
    shape = " x ".join(map(str, layer["output_shape"]))
    towers = f"{layer['towers']} x ({shape})" if layer["towers"] > 1 else shape
    reads = "all towers" if layer["exchange"] else "its own"
    if layer is counts["layers"][0]:
      reads = "the image"
    table.add_row(layer["name"], towers, reads, *_numbers(layer))
  table.add_section()
  table.add_row("total", "", "", *_numbers(counts["totals"]))
  Console(width=110).print(table)


def _numbers(counts: Mapping[str, Any]) -> tuple[str, ...]:
  return (
    f"{counts['parameters']:,}",
    f"{counts['macs']:,}",
    f"{counts['parameter_bytes'] / 1e6:.2f}",
    f"{counts['activation_bytes'] / 1e3:.1f}",
  )


def _network(config: Any) -> networks.Network:
  return networks.from_dict(config.network.to_dict(), config.num_classes)


def main() -> None:
  flag = flags.FLAGS
  network = _network(flag.config)
  configs.check_overrides(networks.unused_keys(network))
  counts = layer_counts(network)
  print_table(counts, configs.path())
  if flag.beside:
    other = layer_counts(_network(configs.load(flag.beside)))
    print_table(other, flag.beside)
    ours, theirs = counts["totals"], other["totals"]
    parameters = ours["parameters"] / theirs["parameters"]
    macs = ours["macs"] / theirs["macs"]
    print(
      f"{configs.path()} has {parameters:,.4g} times the parameters and"
      f" {macs:,.4g} times the multiply-adds of {flag.beside}"
    )
  if flag.json:
    write_atomic(flag.json, json.dumps(counts, indent=2) + "\n")


if __name__ == "__main__":
  configs.DEFINE_config()
  paths.DEFINE_output("json", "", "also write the counts to this JSON file")
  flags.DEFINE_string("beside", "", "configuration to compare with")
  command.run(main)
