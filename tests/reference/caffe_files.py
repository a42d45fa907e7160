"""Caffe's protocol buffers, written by hand.

The fields' numbers are those of caffe.proto.
"""


def varint(number):
  encoded = b""
  while number > 127:
    encoded += bytes([number & 127 | 128])
    number >>= 7
  return encoded + bytes([number])


def field(number, content):
  """A field of bytes, of a message or of packed numbers."""
  return varint(number << 3 | 2) + varint(len(content)) + content


def encode_blob(array, old=False):
  """BlobProto; an `old` one has num, channels, height and width."""
  data = field(5, array.astype("<f4").tobytes())
  if not old:
    dims = b"".join(varint(n) for n in array.shape)
    return field(7, field(1, dims)) + data
  dims = (1,) * (4 - array.ndim) + array.shape
  return (
    b"".join(
      varint(number << 3) + varint(n) for number, n in enumerate(dims, 1)
    )
    + data
  )


def encode_net(blobs, generation=1):
  """NetParameter with layers of generation 0, 1 or the present one, 2."""
  name, blob, layer = {0: (1, 50, 1), 1: (4, 6, 2), 2: (1, 7, 100)}[generation]
  net = field(1, b"AlexNet")
  for key, arrays in blobs.items():
    content = field(name, key.encode()) + b"".join(
      field(blob, encode_blob(x, old=generation < 2)) for x in arrays
    )
    for one in (content, field(name, b"relu")):  # and one without blobs
      net += (
        field(2, field(layer, one)) if not generation else field(layer, one)
      )
  return net
