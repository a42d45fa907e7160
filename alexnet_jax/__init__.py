"""AlexNet (NIPS 2012) in JAX: the paper's two GPUs are two towers.

  net = alexnet_jax.load("runs/quickstart")    a trained network
  model = alexnet_jax.AlexNet(alexnet_jax.Network(), jax.random.key(0))
  scores = model(images)                       on one device, without a mesh
  config = alexnet_jax.load_config("quickstart")
  alexnet_jax.train(config, "runs/mine")       what `alexnet_jax.main` does

docs/library.md describes all names, and experiments/colab.ipynb uses them.
The names are imported when they are first used, so that `import alexnet_jax`
alone is quick, does not import JAX, and changes nothing in the process.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from alexnet_jax.analysis.programs import training_collectives
  from alexnet_jax.data.sources import open_split
  from alexnet_jax.model.alexnet import AlexNet
  from alexnet_jax.model.network import Network
  from alexnet_jax.runtime.config import load as load_config
  from alexnet_jax.runtime.processes import configure as configure_process
  from alexnet_jax.training.classifier import load
  from alexnet_jax.training.loop import train_and_evaluate as train

__all__ = [
  "AlexNet",
  "Network",
  "configure_process",
  "load",
  "load_config",
  "open_split",
  "train",
  "training_collectives",
]

# Where each name is, and what it is called there.
_MODULES = {
  "AlexNet": ("alexnet_jax.model.alexnet", "AlexNet"),
  "Network": ("alexnet_jax.model.network", "Network"),
  "configure_process": ("alexnet_jax.runtime.processes", "configure"),
  "load": ("alexnet_jax.training.classifier", "load"),
  "load_config": ("alexnet_jax.runtime.config", "load"),
  "open_split": ("alexnet_jax.data.sources", "open_split"),
  "train": ("alexnet_jax.training.loop", "train_and_evaluate"),
  "training_collectives": (
    "alexnet_jax.analysis.programs",
    "training_collectives",
  ),
}


# Python is looking for a module to run: `python -m alexnet_jax.COMMAND`.
if sys.argv[:1] == ["-m"]:
  from alexnet_jax.runtime import environment

  environment.check_libraries()
  if "--help" not in sys.argv:
    environment.prepare()


def __getattr__(name: str) -> Any:
  if name not in _MODULES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  module, attribute = _MODULES[name]
  return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
  return sorted([*globals(), *__all__])
