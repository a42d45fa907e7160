"""What the training step says of the parameters."""

import jax
import numpy as np
import pytest

from alexnet_jax import step
from alexnet_jax.model import AlexNet
from alexnet_jax.network import Network


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
