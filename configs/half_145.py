"""Net #145-half: one GPU with half the kernels, by the source's recipe.

`half.py` is the same network by the recipe of the text. In the authors' log
this run also differs from #145 in its bias rate, its drops (epochs 20 and 48)
and its length (96 epochs); here it does not.
"""

from configs import original2012


def get_config():
  config = original2012.get_config()
  config.network.towers, config.network.exchanges = 1, ()
  config.network.conv5.features = 256
  config.network.fc6.features = config.network.fc7.features = 4096
  return config
