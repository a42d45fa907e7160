"""Weights to and from the layout of PyTorch and Caffe, as safetensors.

  python -m alexnet_jax.weights export --workdir=DIR --output=FILE
      [--channels=rgb|bgr] [--checkpoint=newest|best|STEP]
  python -m alexnet_jax.weights import --workdir=DIR --input=FILE
      [--channels=rgb|bgr]

That layout has one tower with grouped convolutions; docs/weights.md lists names
and shapes. Caffe's conv1 reads blue, green, red: use --channels=bgr.

Import needs a run in DIR with a checkpoint; a training of one step is enough.
It saves the weights as a new checkpoint with a velocity of zero, and the same
training command then continues from there.
"""

from absl import flags

from alexnet_jax.runtime import command, paths
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training.weights import export_weights, import_weights


def main(subcommand: str) -> None:
  flag = flags.FLAGS
  if not flag.workdir:
    raise UserError("--workdir is missing; set it to the directory of a run.")
  name = "output" if subcommand == "export" else "input"
  file = flag[name].value
  if not file:
    raise UserError(f"--{name} is missing; set it to a safetensors file.")
  if subcommand == "export":
    step = export_weights(flag.workdir, file, flag.channels, flag.checkpoint)
    print(f"wrote {file}: the weights after step {step}")
  else:
    step = import_weights(flag.workdir, file, flag.channels)
    print(f"{flag.workdir}: saved the weights of {file} as checkpoint {step}")


if __name__ == "__main__":
  paths.DEFINE_path("workdir", "", "directory of the run")
  paths.DEFINE_path("output", "", "export: the file to write")
  paths.DEFINE_path("input", "", "import: the file to read")
  flags.DEFINE_enum(
    "channels", "rgb", ["rgb", "bgr"], "order in which conv1 reads the colours"
  )
  flags.DEFINE_string(
    "checkpoint",
    "newest",
    "export: the checkpoint to read: newest, best or a step",
  )
  command.run(main, "export", "import")
