"""Weights to and from the layout of PyTorch and Caffe.

  python -m alexnet_jax.weights export --workdir=DIR --output=FILE
      [--format=safetensors|onnx] [--channels=rgb|bgr]
      [--checkpoint=newest|best|STEP]
  python -m alexnet_jax.weights import --input=FILE --config=FILE --output=FILE
      [--mean_image=FILE] [--channels=rgb|bgr]
  python -m alexnet_jax.weights import --input=FILE --workdir=DIR
      [--channels=rgb|bgr]

Export writes a safetensors file that carries the network, the mean image and
the class names. With --format=onnx it writes a graph from pixels to class
probabilities, for onnxruntime and others; this needs the library ONNX
(`pip install -r requirements-onnx.txt`).

Import reads an exported safetensors file, or published weights of AlexNet, as
safetensors, PyTorch's .pth (if PyTorch is installed) or .caffemodel. With
--config, such as configs/torchvision.py, it writes a file that carries its
network; --mean_image is Caffe's imagenet_mean.binaryproto or
ilsvrc_2012_mean.npy. With --workdir it saves the weights as a new checkpoint of
that run, which has at least one; the same training command then continues from
there with a velocity of zero.

--channels is the order in which conv1 of the file reads the colours. Without
it, the file, its layout or the configuration says so; an ONNX file reads RGB.
docs/weights.md lists names and shapes.
"""

from absl import flags

from alexnet_jax.runtime import command, paths
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import weights_file
from alexnet_jax.training.weights import export_weights, import_weights


def main(subcommand: str) -> None:
  flag = flags.FLAGS
  if subcommand == "export":
    _refuse("export", "input", "config", "mean_image")
    _require("workdir", "the directory of a run")
    _require("output", "the file to write")
    step = export_weights(
      flag.workdir, flag.output, flag.channels, flag.checkpoint, flag.format
    )
    print(f"wrote {flag.output}: the weights after step {step}")
    return
  _require("input", "a file of weights")
  if bool(flag.workdir) == bool(flag.output):
    raise UserError(
      "give either --workdir=DIR, the run that receives the weights, or"
      " --config=FILE and --output=FILE, the file to write."
    )
  if flag.workdir:
    task = "import into a run"
    _refuse(task, "config", "mean_image", "checkpoint", "format")
    step = import_weights(flag.workdir, flag.input, flag.channels)
    where = f"{flag.workdir}: saved the weights of {flag.input}"
    print(f"{where} as checkpoint {step}")
  else:
    _refuse("import", "checkpoint", "format")
    weights_file.convert(
      flag.input, flag.config, flag.output, flag.mean_image, flag.channels
    )
    print(f"wrote {flag.output}, which carries its network")


def _require(name: str, meaning: str) -> None:
  if not flags.FLAGS[name].value:
    raise UserError(f"--{name} is missing; set it to {meaning}.")


def _refuse(task: str, *names: str) -> None:
  given = [f"--{name}" for name in names if flags.FLAGS[name].present]
  if given:
    raise UserError(
      f"{', '.join(given)} would have no effect on {task}. Leave it out."
    )


if __name__ == "__main__":
  paths.DEFINE_path("workdir", "", "directory of the run")
  paths.DEFINE_output("output", "", "the file to write")
  paths.DEFINE_path("input", "", "import: the file to read")
  flags.DEFINE_enum(
    "format", "safetensors", weights_file.FORMATS, "export: the file's format"
  )
  configs.DEFINE_config(required=False)
  paths.DEFINE_path("mean_image", "", "import: file with Caffe's mean image")
  flags.DEFINE_enum(
    "channels",
    "",
    ["", "rgb", "bgr"],
    "order in which conv1 of the file reads the colours",
  )
  command.DEFINE_checkpoint("export: ")
  command.run(main, "export", "import")
