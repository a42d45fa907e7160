"""Net #150: the columns meet in the class scores alone; 60,714,408 parameters.

conv2 is wider (160 a column), and so is fc6 (4096 from its own pool).
"""

from configs import original2012


def get_config():
  config = original2012.get_config()
  config.network.exchanges = ("fc8",)
  config.network.conv2.features = 160
  config.network.fc6.features = 4096
  return config
