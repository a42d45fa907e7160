"""One GPU with half the kernels (section 3.2), as the authors ran it.

Net #145-half kept conv5 and the fully connected layers whole, so it has hardly
fewer parameters: 59,798,312.
"""

from configs import paper


def get_config():
  config = paper.get_config()
  config.network.towers, config.network.exchanges = 1, ()
  config.network.conv5.features = 256
  config.network.fc6.features = config.network.fc7.features = 4096
  return config
