"""conv4 removed (section 7)."""

from configs import paper
from configs.paper import layer


def get_config():
  config = paper.get_config()
  config.network.conv4 = layer(0)
  return config
