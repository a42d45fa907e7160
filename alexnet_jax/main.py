"""Trains a network; the same command again resumes.

  python -m alexnet_jax.main --config=configs/NAME.py [--workdir=DIR]
      [--config.KEY=VALUE ...]

Writes config.json, metrics.jsonl, checkpoints and TensorBoard events into DIR
(default runs/NAME). A finished run only prints its table.
"""

from absl import flags

from alexnet_jax import command, config

_CONFIG = config.DEFINE_config()
_WORKDIR = flags.DEFINE_string("workdir", "", "default: runs/NAME")


def main() -> None:
  from alexnet_jax import train  # JAX starts once the flags are known good

  train.train_and_evaluate(
    _CONFIG.value, _WORKDIR.value or config.default_workdir(config.path())
  )


if __name__ == "__main__":
  command.run(main)
