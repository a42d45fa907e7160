r"""What the authors' released source of net #145 did, on ILSVRC-2012.

  python -m alexnet_jax.main --config=configs/original2012.py \
      --config.data_dir=DIR

Each line is a difference from the text (`paper.py`), taken from the layer files
and data providers of the 2012 source; docs/fidelity.md lists them in a table.
The ILSVRC-2010 run of Table 1 also has
`--config.schedule.name=log145_2010 --config.schedule.bias_drops=once
--config.augmentation.lighting_until=68`. For a run without manual changes of
the learning rate use
`--config.schedule.name=dexp --config.schedule.bias_drops=once`.
"""

from configs import paper


def get_config():
  config = paper.get_config()
  config.total_epochs = 91  # the authors stopped the run there

  # LRN sees conv1's signed pre-activations; ReLU comes after its pooling.
  config.network.conv1.then = ("lrn", "pool", "relu")
  config.network.conv2.then = ("relu", "lrn", "within_map_norm", "pool")
  config.network.lrn_alpha = 1e-4 / 5  # the layer parser divides it by n
  for name in ("conv3", "conv4", "conv5"):
    config.network[name].std = 0.03

  config.schedule.name = "log145_2012"
  config.schedule.bias_learning_rate = 0.02
  config.schedule.bias_drops = "never"
  config.schedule.conv1_frozen_from = 72.0

  config.augmentation.shared_by = 32  # images with the same crop and flip
  config.augmentation.lighting_divisor = 1.1
  config.augmentation.lighting_until = 67.0
  config.centre_mean = True  # for every crop, mirrored or not
  return config
