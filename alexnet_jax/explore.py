"""Shows a page to look into a trained network: towers, exchanges, cuts.

  python -m alexnet_jax.explore --workdir=DIR | --weights=FILE [--config=FILE]
      [--checkpoint=newest|best|STEP] [--host=127.0.0.1] [--port=7860] [--share]

Drop a picture, take one with the camera or choose one of the dataset. The page
shows the classes, the maps of both towers at each layer, what crosses at each
exchange, conv1's kernels beside what they respond to, and the nearest training
images. Cut an exchange or a tower, and see the classes change.

The page loads nothing from elsewhere and is visible on this machine only,
unless --host or --share say otherwise. It needs Gradio:
`pip install -r requirements-explore.txt`. In a notebook:

  from alexnet_jax.explore import explore
  explore("runs/quickstart")
"""

import os
from collections.abc import Mapping
from typing import Any

from absl import flags

from alexnet_jax.analysis import explorer
from alexnet_jax.runtime import command, paths, processes
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import classifier

SEARCH = 5000


def explore(
  path: str | os.PathLike,
  checkpoint: str | int = "newest",
  config: Mapping[str, Any] | str | None = None,
  *,
  data_dir: str = "",
  search: int = SEARCH,
  host: str = "",
  port: int = 0,
  share: bool = False,
) -> None:
  """Shows the page; in a notebook below the cell, else until Ctrl-C.

  Args:
    path, checkpoint, config: as of `alexnet_jax.load`.
    data_dir: where the run's dataset is now; "": where it was in training.
    search: how many training images, evenly spaced, are searched for the
      nearest ones; 0: all.
    host: address to listen on; "": GRADIO_SERVER_NAME, or 127.0.0.1.
    port: 0: GRADIO_SERVER_PORT, or the first free one from 7860.
    share: also at a public address, through the servers of Gradio.

  Raises:
    UserError: Gradio is missing; or as `alexnet_jax.load`; or the port is in
      use.
  """
  try:
    from alexnet_jax.analysis import explorer_page
  except ModuleNotFoundError as error:
    if error.name != "gradio":
      raise
    raise UserError(
      "the explorer needs Gradio, which is not installed: pip install -r"
      " requirements-explore.txt (or: pip install gradio)."
    ) from None
  explorer_page.check_address(host, port)
  net = classifier.load(path, checkpoint, config)
  shown = explorer.make_explorer(net, os.fspath(path), data_dir, search)
  explorer_page.serve(shown, host, port, share)


def main() -> None:
  flag = flags.FLAGS
  if bool(flag.workdir) == bool(flag.weights):
    raise UserError(
      "give either --workdir=DIR, the directory of a run, or --weights=FILE,"
      " exported weights."
    )
  if flag.search < 0:
    raise UserError(f"--search must be at least 0 (got {flag.search}).")
  processes.configure()
  explore(
    flag.workdir or flag.weights,
    flag.checkpoint,
    flag.config,
    data_dir=flag.data_dir,
    search=flag.search,
    host=flag.host,
    port=flag.port,
    share=flag.share,
  )


if __name__ == "__main__":
  paths.DEFINE_path("workdir", "", "directory of the run")
  paths.DEFINE_path("weights", "", "file of weights, instead of a run")
  configs.DEFINE_config(required=False)
  command.DEFINE_checkpoint()
  paths.DEFINE_path("data_dir", "", "dataset directory, if it has moved")
  flags.DEFINE_integer(
    "search", SEARCH, "training images searched for the nearest ones; 0: all"
  )
  flags.DEFINE_string(
    "host", "", "address to listen on, 0.0.0.0 for all; default: 127.0.0.1"
  )
  flags.DEFINE_integer(
    "port", 0, "port; 0: the first free one from 7860", 0, 65535
  )
  flags.DEFINE_bool(
    "share", False, "also at a public address, through Gradio's servers"
  )
  command.run(main)
