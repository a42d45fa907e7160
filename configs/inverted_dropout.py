"""Dropout as most libraries have it: doubled in training, not halved after.

With the paper's other constants this is another network: layers after dropout
read values twice as large.
"""

from configs import paper


def get_config():
  config = paper.get_config()
  config.network.dropout_inverted = True
  return config
