"""Throughput: the rows of a benchmark's table."""

from typing import Any

import numpy as np
import rich.console
import rich.table

from alexnet_jax.data.parallel import num_cores


def row(
  name: str, seconds: np.ndarray, steps: int, batch_size: int
) -> dict[str, Any]:
  """A row of the table, from the seconds of each round of `steps` batches."""
  rate = steps * batch_size / float(np.median(seconds))
  # A transfer is the work of one thread, whatever the cores.
  cores = 1 if name == "transfer" else num_cores()
  ms = seconds / steps * 1e3
  return {
    "name": name,
    "images_per_second": rate,
    "ms": {
      "min": float(ms.min()),
      "median": float(np.median(ms)),
      "max": float(ms.max()),
    },
    "cores_per_1000_images_per_second": 1000 * cores / rate,
  }


def show(rows) -> None:
  """Prints the rows as a table."""
  table = rich.table.Table()
  for title in ("", "images/s", "ms/batch: min", "median", "max"):
    table.add_column(title, justify="right" if title else "left")
  for row in rows:
    times = (f"{row['ms'][key]:,.1f}" for key in ("min", "median", "max"))
    table.add_row(row["name"], f"{row['images_per_second']:,.0f}", *times)
  rich.console.Console().print(table)
