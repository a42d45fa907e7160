"""The network of a configuration as a table, layer by layer.

  python -m alexnet_jax.describe --config=configs/NAME.py [--json=FILE]
      [--beside=configs/OTHER.py]

Shapes are one tower's, before pooling; parameters and multiply-adds (of one
image, forward) count all towers. Bytes are float32's.
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags
from rich.console import Console
from rich.table import Table

from alexnet_jax.model import network as networks
from alexnet_jax.model.network import Network, Shape
from alexnet_jax.runtime import command
from alexnet_jax.runtime import config as configs

_FLOAT32 = 4


def describe(network: Network) -> dict[str, Any]:
  """Counts, worked out from the layers' sizes; nothing is computed on a device.

  Args:
    network: any that can be laid out.

  Returns:
    `layers`, a list of {name, output_shape, towers, parameters, macs,
    parameter_bytes, activation_bytes, exchange}, and `totals` of the numbers.
    `activation_bytes` are those of `output_shape`, of one image, in all towers;
    `exchange` says whether the layer reads all towers.

  Raises:
    UserError: the network cannot be laid out.
  """
  layers = [
    _describe_layer(shape, network) for shape in networks.shapes(network)
  ]
  counted = ("parameters", "macs", "parameter_bytes", "activation_bytes")
  totals = {name: sum(layer[name] for layer in layers) for name in counted}
  return {"layers": layers, "totals": totals}


def _describe_layer(shape: Shape, network: Network) -> dict[str, Any]:
  name, layer, inputs, convolved, _ = shape
  # What one output reads, and how many outputs share its kernel.
  reads = layer.size**2 * inputs[-1] // layer.groups or inputs[-1]
  places = math.prod(convolved[:-1])
  kernels = layer.features * (places if layer.local else 1)
  parameters = network.towers * kernels * (reads + (layer.bias is not None))
  if name == "fc8":
    parameters += network.num_classes  # one bias for all towers
  return {
    "name": name,
    "output_shape": list(convolved),
    "towers": network.towers,
    "parameters": parameters,
    "macs": network.towers * places * layer.features * reads,
    "parameter_bytes": _FLOAT32 * parameters,
    "activation_bytes": _FLOAT32 * network.towers * math.prod(convolved),
    "exchange": name in network.exchanges,
  }


def _print_table(found: Mapping[str, Any], title: str) -> None:
  table = Table(
    "layer",
    "one tower's output",
    "reads",
    *["parameters", "multiply-adds", "parameter MB", "output kB an image"],
    title=title,
  )
  table.columns[1].no_wrap = True
  for column in table.columns[3:]:
    column.justify = "right"
  for layer in found["layers"]:
    shape = " x ".join(map(str, layer["output_shape"]))
    towers = f"{layer['towers']} x ({shape})" if layer["towers"] > 1 else shape
    reads = "all towers" if layer["exchange"] else "its own"
    first = layer is found["layers"][0]
    table.add_row(
      layer["name"], towers, "the image" if first else reads, *_numbers(layer)
    )
  table.add_section()
  table.add_row("total", "", "", *_numbers(found["totals"]))
  Console(width=110).print(table)


def _numbers(counts: Mapping[str, Any]) -> tuple[str, ...]:
  return (
    f"{counts['parameters']:,}",
    f"{counts['macs']:,}",
    f"{counts['parameter_bytes'] / 1e6:.2f}",
    f"{counts['activation_bytes'] / 1e3:.1f}",
  )


def _network(config: Any) -> Network:
  return networks.from_dict(config.network.to_dict(), config.num_classes)


def main() -> None:
  flag = flags.FLAGS
  found = describe(_network(flag.config))
  _print_table(found, configs.path())
  if flag.beside:
    other = describe(_network(configs.load(flag.beside)))
    _print_table(other, flag.beside)
    parameters, macs = (
      found["totals"][name] / other["totals"][name]
      for name in ("parameters", "macs")
    )
    print(
      f"{configs.path()} has {parameters:,.4g} times the parameters and"
      f" {macs:,.4g} times the multiply-adds of {flag.beside}"
    )
  if flag.json:
    pathlib.Path(flag.json).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
  configs.DEFINE_config()
  flags.DEFINE_string("json", "", "also write the table into this file")
  flags.DEFINE_string("beside", "", "another configuration to compare with")
  command.run(main)
