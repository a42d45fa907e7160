"""conv1 removed (section 7); conv2 sees the pixels, its stride conv1's.

Both poolings stay, so the sizes of the maps do too: 55, 27, 13.
"""

from configs import paper
from configs.paper import layer


def get_config():
  config = paper.get_config()
  config.network.conv1 = layer(0)
  config.network.conv2.update(stride=4, padding=(0, 0))
  config.network.conv2.then = ("relu", "lrn", "pool", "pool")
  return config
