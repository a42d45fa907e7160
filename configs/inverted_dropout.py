"""Dropout as most libraries have it: doubled in training, not halved after.

With the paper's other constants this is another network: what reads a dropped
layer gets twice as much.
"""

from configs import paper


def get_config():
  config = paper.get_config()
  config.network.dropout_inverted = True
  return config
