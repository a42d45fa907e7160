"""The usual port: one tower of the full width, every map connected.

62,378,344 parameters; convolutions 2, 4 and 5 see all maps.
"""

from configs import paper


def get_config():
  config = paper.get_config()
  config.network.towers = 1
  config.network.width = 2.0
  config.network.exchanges = ()
  return config
