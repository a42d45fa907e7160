"""Net #147: pooling without overlap, by the source's recipe.

`no_overlap.py` is the same network by the recipe of the text. In the authors'
log this run also differs from #145 in its bias rate, its lighting noise (never
off) and the drops of conv1's rate; here it does not.
"""

from configs import original2012


def get_config():
  config = original2012.get_config()
  config.network.pool_size = config.network.pool_stride = 2
  config.network.conv2.padding = (1, 1)
  config.network.conv5.padding = (0, 0)
  return config
