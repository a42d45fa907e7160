r"""Fine-tunes trained weights on pictures of one's own.

  python -m alexnet_jax.prepare --source=folder:pictures --holdout=0.1 \
      --data_dir=data
  python -m alexnet_jax.main --config=configs/finetune.py:NAME \
      --config.data_dir=data --config.num_classes=N [--config.start_from=PATH]

`pictures` has one folder of pictures for each of the N classes. NAME is the
configuration that the weights were trained with, and PATH their run (runs/NAME
if it is left out) or a file of weights. Everything about the network and its
pixels is as in NAME, the mean image too; fc8 begins with random weights and
learns ten times as fast as the layers before it, as in Caffe's example
`finetune_flickr_style`.
"""

import importlib

from alexnet_jax.model.network import LAYERS


def get_config(name="paper"):
  config = importlib.import_module(f"configs.{name}").get_config()
  config.start_from = f"runs/{name}"
  config.start_layers = tuple(
    layer for layer in LAYERS[:-1] if config.network[layer].features
  )
  config.start_mean_image = True
  # A layer that is not named has the factor 1. Freezing the first layers, as in
  # (("conv1", 0.0), ("conv2", 0.0), ("fc8", 10.0)), saves time.
  config.optimizer.layer_rates = (("fc8", 10.0),)

  config.dataset = "pictures_256"
  config.splits.train = "train"
  config.splits.validation = config.splits.test = "validation"
  config.holdout = 0

  config.batch_size = 32
  config.augmentation.shared_by = 1
  config.total_epochs = 20
  config.eval_every_epochs = 5
  config.checkpoint_every_steps = 0
  config.report_at_end = False
  config.log_every_steps = 10
  config.schedule.name = "cosine"
  config.schedule.learning_rate = 0.001
  config.schedule.bias_learning_rate = 0.001
  config.schedule.bias_drops = "all"
  config.schedule.conv1_frozen_from = 0.0
  config.schedule.warmup_epochs = 0.0
  return config
