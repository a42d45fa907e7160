"""What the training step says of the parameters."""

import jax
import numpy as np
import pytest

from alexnet_jax.model import sharding
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.network import Network
from alexnet_jax.training import step


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_seen_where_it_is(wrong):
  net = AlexNet(Network(width=1 / 32, num_classes=3), jax.random.key(0))
  kernel = net.towers.conv3.kernel
  # The largest numbers are finite, and so must their sum be taken to be.
  kernel[...] = kernel[...].at[:].set(np.finfo(np.float32).max)
  kernel[...] = kernel[...].at[1, 2, 0, 1, 1].set(wrong)
  finite = jax.jit(step.all_finite)(net)
  assert finite.pop("conv3.kernel").tolist() == [True, False]
  assert all(towers.all() for towers in finite.values())


def test_what_is_not_a_number_is_no_right_answer():
  mesh = sharding.make_mesh(1, 1)
  logs = np.log(np.full((3, 10), 0.1, np.float32))
  logs[0] = np.nan  # nothing is known of this image
  logs[1, 1:] = np.nan  # and of this one only what its own class got
  logs[2, 0] = 0.0
  batch = (logs, np.zeros(3, np.int32), np.ones(3, np.float32))
  placed = [sharding.place(x, sharding.BATCH, mesh) for x in batch]
  sums = step.make_score(mesh)(*placed)
  assert float(sums["top1_error"]) == 2
  assert float(sums["top5_error"]) == 2
