"""Beginning with the layers of another run (`initw.py` of the 2012 source)."""

from collections.abc import Sequence

from jax.sharding import Mesh

from alexnet_jax.evaluate import load_net
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.runtime.command import UserError


def begin_with(
  net: AlexNet, workdir: str, names: Sequence[str], mesh: Mesh
) -> None:
  """Gives `net` the weights and biases of some layers of another run.

  As the authors did for their pre-trained networks (Table 2, "CNN*"): the
  convolutional layers came along, the others began anew.

  Args:
    net: initial parameters; changed in place.
    workdir: of the other run; its newest checkpoint counts.
    names: of the layers, such as "conv1"; those that the other run has not
      keep their initial weights.
    mesh: that `net` lies on.

  Raises:
    UserError: no such run or layer, or a layer of other shapes.
  """
  other, _ = load_net(workdir, mesh)
  for name in names:
    if not hasattr(net.towers, name):
      raise UserError(
        f"start_layers names {name!r}, and this network has no such layer."
      )
    if not hasattr(other.towers, name):
      continue
    mine, theirs = getattr(net.towers, name), getattr(other.towers, name)
    if mine.kernel[...].shape != theirs.kernel[...].shape:
      raise UserError(
        f"{name} of {workdir} is {theirs.kernel[...].shape} and here it is"
        f" {mine.kernel[...].shape}: leave it out of start_layers, or choose"
        " another start_from."
      )
    # Not the layer itself: its stride and padding are the other network's.
    mine.kernel, mine.bias = theirs.kernel, theirs.bias
