"""Files of other frameworks: PyTorch's .pth, Caffe's .caffemodel and mean.

PyTorch itself reads its files, and only tensors (`weights_only`); Caffe's are
protocol buffers. Nothing in a file is executed.
"""

import functools
import pathlib
from pickle import UnpicklingError

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from alexnet_jax.runtime.command import UserError

Arrays = dict[str, np.ndarray]

# The parts of caffe.proto that hold parameters: fields (name, number, type), a
# list if the name has a `*`. Three generations of layers are in use.
_CAFFE = {
  "BlobShape": [("dim*", 1, "int64")],
  "BlobProto": [
    ("num", 1, "int32"),
    ("channels", 2, "int32"),
    ("height", 3, "int32"),
    ("width", 4, "int32"),
    ("data*", 5, "float"),
    ("shape", 7, "BlobShape"),
    ("double_data*", 8, "double"),
  ],
  "V0Layer": [("name", 1, "string"), ("blobs*", 50, "BlobProto")],
  "V1Layer": [
    ("layer", 1, "V0Layer"),
    ("name", 4, "string"),
    ("blobs*", 6, "BlobProto"),
  ],
  "Layer": [("name", 1, "string"), ("blobs*", 7, "BlobProto")],
  "Net": [("layers*", 2, "V1Layer"), ("layer*", 100, "Layer")],
}


def read_pytorch(path: str) -> Arrays:
  """The tensors of a state dict that `torch.save` wrote, or of a checkpoint.

  The state dict may be the file's content, or its "state_dict" or "model".

  Raises:
    UserError: PyTorch is not installed, or the file is no such file.
  """
  try:
    import torch
  except ImportError:
    raise UserError(
      f"{path} is a file of PyTorch, which is not installed. Install it (pip"
      " install torch), or convert the file where it is: safetensors.torch."
      "save_file(torch.load(FILE, weights_only=True), OUTPUT)."
    ) from None
  try:
    content = torch.load(path, map_location="cpu", weights_only=True)
  except UnpicklingError:
    raise UserError(
      f"{path} contains Python objects other than tensors, or is damaged; it is"
      " not loaded, because loading them would execute code. Save its state"
      " dict alone: torch.save(model.state_dict(), FILE)."
    ) from None
  # On damaged files PyTorch raises exceptions of nearly any type.
  except Exception as error:
    reason = str(error).partition("\n")[0] or type(error).__name__
    raise UserError(f"{path} is not a file of PyTorch: {reason}") from None
  for key in ("state_dict", "model"):
    if isinstance(content, dict) and isinstance(content.get(key), dict):
      content = content[key]
  if not isinstance(content, dict) or not all(
    isinstance(tensor, torch.Tensor) for tensor in content.values()
  ):
    raise UserError(
      f"{path} is not a state dict: it must be a dictionary of tensors by name."
    )
  half = (torch.float16, torch.bfloat16)
  return {
    str(name): (x.float() if x.dtype in half else x).detach().numpy()
    for name, x in content.items()
  }


def read_caffe(path: str) -> Arrays:
  """The blobs of a .caffemodel, by layer and number: "conv1.0", "conv1.1".

  Raises:
    UserError: the file is no such file, or a blob has another number of values
      than its shape says.
  """
  net = _parse(path, "Net")
  layers = [*net.layer, *net.layers]
  layers = [getattr(x, "layer", x) if not x.blobs else x for x in layers]
  arrays = {
    f"{layer.name}.{number}": _blob(blob, f"{path}: {layer.name}.{number}")
    for layer in layers
    for number, blob in enumerate(layer.blobs)
  }
  if not arrays:
    raise UserError(f"{path} has no layer with parameters.")
  return arrays


def read_mean_image(path: str) -> np.ndarray:
  """Caffe's mean image, .binaryproto or .npy, as f32[S,S,3] RGB.

  In the file it is [3,S,S], blue first.

  Raises:
    UserError: the file does not exist or is no such file.
  """
  if not pathlib.Path(path).is_file():
    raise UserError(f"{path}: no such file.")
  if path.endswith(".npy"):
    try:
      array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
      raise UserError(f"{path} is not an array of NumPy: {error}.") from None
  else:
    array = _blob(_parse(path, "BlobProto"), path)
  array = array.reshape(array.shape[-3:])
  if array.ndim != 3 or array.shape != (3, array.shape[-1], array.shape[-1]):
    raise UserError(
      f"{path} is not a mean image: its shape must be [3,S,S] (got"
      f" {list(array.shape)})."
    )
  if not np.isfinite(array).all():
    raise UserError(f"{path} has values that are not finite.")
  return np.ascontiguousarray(array[::-1].transpose(1, 2, 0), np.float32)


def _parse(path: str, kind: str):
  """The protocol buffer in a file."""
  message = _caffe_messages()[kind]()
  try:
    message.ParseFromString(pathlib.Path(path).read_bytes())
  except DecodeError:
    raise UserError(f"{path} is not a file of Caffe, or is damaged.") from None
  return message


def _blob(blob, name: str) -> np.ndarray:
  values = blob.double_data or blob.data
  flat = np.fromiter(values, np.float32, len(values))
  shape = tuple(blob.shape.dim)
  if not shape:
    shape = (blob.num, blob.channels, blob.height, blob.width)
  if np.prod(shape, dtype=np.int64) != len(flat):
    raise UserError(
      f"{name} has {len(flat):,} values, but the shape {list(shape)}: the file"
      " is damaged or not of Caffe."
    )
  return flat.reshape(shape)


@functools.cache
def _caffe_messages() -> dict[str, type]:
  """The classes of protocol buffers that `_CAFFE` describes."""
  field_type = descriptor_pb2.FieldDescriptorProto
  package = "alexnet_jax.caffe"
  file = descriptor_pb2.FileDescriptorProto(name="caffe", package=package)
  for kind, fields in _CAFFE.items():
    message = file.message_type.add(name=kind)
    for name, number, value in fields:
      repeated = name.endswith("*")
      field = message.field.add(name=name.rstrip("*"), number=number)
      field.label = (
        field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
      )
      if value in _CAFFE:
        field.type = field_type.TYPE_MESSAGE
        field.type_name = f".{package}.{value}"
      else:
        field.type = getattr(field_type, f"TYPE_{value.upper()}")
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return {
    kind: message_factory.GetMessageClass(
      pool.FindMessageTypeByName(f"{package}.{kind}")
    )
    for kind in _CAFFE
  }
