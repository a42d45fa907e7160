"""Pooling without overlap (section 3.4), with net #147's paddings.

They bring the maps back to about the same sizes: 55, 28, 26, 13, 11, 6.
"""

from configs import paper


def get_config():
  config = paper.get_config()
  config.network.pool_size = config.network.pool_stride = 2
  config.network.conv2.padding = (1, 1)
  config.network.conv5.padding = (0, 0)
  return config
