"""cuda-convnet's conv-local-13pct, the "four-layer" net of section 3.3.

1,116,490 parameters, no normalisation. conv3 and conv4 are the source's local3
and local4: each position has kernels of its own.
"""

from configs import cifar_80sec
from configs.paper import layer


def get_config():
  config = cifar_80sec.get_config()
  network = config.network
  network.crop_size, network.fc8_std = 24, 0.01
  network.conv1.update(features=64, then=("relu", "pool"))
  network.conv2.update(features=64, then=("relu", "pool"))
  local = {"size": 3, "padding": (1, 1), "local": True, "std": 0.04}
  network.conv3, network.conv4 = layer(32, **local), layer(32, **local)
  network.fc6 = layer(0)
  config.augmentation.update(crop=True, flip=True)
  config.optimizer.weight_decay = 0.0
  decayed = ("conv3", "conv4", "fc8")
  config.optimizer.layer_weight_decay = tuple((n, 0.004) for n in decayed)
  config.schedule.bias_drops = "never"
  config.total_epochs, config.schedule.boundaries = 160, (140.0, 150.0)
  return config
