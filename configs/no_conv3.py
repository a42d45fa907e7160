"""conv3 removed (section 7); the towers exchange before conv4 instead."""

from configs import paper
from configs.paper import layer


def get_config():
  config = paper.get_config()
  config.network.conv3 = layer(0)
  config.network.exchanges = ("conv4", "fc6", "fc7", "fc8")
  return config
