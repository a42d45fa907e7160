"""Net #146: a sixth convolution above the last pooling ("1 CNN*", Table 2).

61,555,304 parameters. The paper's networks were pre-trained on 22,000 classes.
According to the authors' notes, this one overfitted when it was trained from
scratch on ILSVRC-2012.
"""

from configs import original2012
from configs.paper import layer


def get_config():
  config = original2012.get_config()
  conv6 = layer(128, size=3, padding=(1, 1), std=0.03, bias=1.0)
  config.network.conv6 = conv6
  config.network.exchanges = ("conv3", "conv6", "fc6", "fc7", "fc8")
  return config
