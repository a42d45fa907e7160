"""Net #148, behind the paper's LRN figures: both norms and a third are gone.

The third, after conv2 and within a map, is not in the paper.
"""

from configs import original2012


def get_config():
  config = original2012.get_config()
  config.network.conv1.then = ("pool", "relu")
  config.network.conv2.then = ("relu", "pool")
  return config
