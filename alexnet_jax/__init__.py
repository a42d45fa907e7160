"""AlexNet (NIPS 2012) in JAX: the paper's two GPUs are two towers.

  net = alexnet_jax.load("runs/quickstart")    a trained network
  model = alexnet_jax.AlexNet(alexnet_jax.Network(), jax.random.key(0))
  scores = model(images)                       on one device, without a mesh

The names are imported when they are first used, so that `import alexnet_jax`
alone is quick, does not import JAX, and changes nothing in the process.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from alexnet_jax.model.alexnet import AlexNet
  from alexnet_jax.model.network import Network
  from alexnet_jax.training.classifier import load

__all__ = ["AlexNet", "Network", "load"]

_MODULES = {
  "AlexNet": "alexnet_jax.model.alexnet",
  "Network": "alexnet_jax.model.network",
  "load": "alexnet_jax.training.classifier",
}


# Python is looking for a module to run: `python -m alexnet_jax.COMMAND`.
if sys.argv[:1] == ["-m"] and "--help" not in sys.argv:
  from alexnet_jax.runtime import environment

  environment.prepare()


def __getattr__(name: str) -> Any:
  if name not in _MODULES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
  return sorted([*globals(), *__all__])
