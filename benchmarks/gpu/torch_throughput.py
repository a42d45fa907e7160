"""Torch throughput: the same network in PyTorch, on the same device."""

import time

from benchmarks.gpu.record import Record
from benchmarks.gpu.sizes import Sizes


def eager(record: Record, sizes: Sizes) -> None:
  """PyTorch as it is."""
  _time(record, sizes, compiled=False)


def compiled(record: Record, sizes: Sizes) -> None:
  """With `torch.compile(mode="max-autotune")`."""
  _time(record, sizes, compiled=True)


def _time(record: Record, sizes: Sizes, compiled: bool) -> None:
  try:
    import torch
  except ImportError:
    record["skipped"] = "PyTorch is not installed"
    return
  from benchmarks import pytorch

  on_gpu = torch.cuda.is_available()
  record["version"] = torch.__version__
  programs = sizes.programs
  if sizes.tiny:  # at full width, because PyTorch's network has no other
    programs = [] if compiled else [("bfloat16", 1)]
    record["of a trial"] = "eager at batch 1; nothing is compiled"
  torch.backends.cudnn.benchmark = True
  for name, batch in programs:
    with record.trying(f"{name} {batch}"):
      torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
      torch.backends.cudnn.allow_tf32 = name == "tf32"
      dtype = "bfloat16" if name == "bfloat16" else "float32"
      start = time.perf_counter()
      device = "cuda" if on_gpu else "cpu"
      train = pytorch.make("train", batch, compiled, dtype, device)
      train()
      seconds = time.perf_counter() - start
      ms = record.time(train, lambda _: None)
      memory = torch.cuda.max_memory_allocated() if on_gpu else None
      record[f"{name} {batch}"] = {
        "images_per_second": 1e3 * batch / ms["median"],
        "ms": ms,  # the loss is fetched after each step
        "seconds to the first step": seconds,
        "peak bytes": memory,
      }
      del train
      if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
