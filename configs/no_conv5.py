"""conv5 removed (section 7); its pooling follows conv4."""

from configs import paper
from configs.paper import layer


def get_config():
  config = paper.get_config()
  config.network.conv5 = layer(0)
  config.network.conv4.then = ("relu", "pool")
  return config
