"""The text of a compiled program, read as computations of instructions."""

import functools
import math
import re
from typing import NamedTuple

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$")
# %name = RESULT op(operands), attributes
_INSTRUCTION = re.compile(r"\s*(ROOT )?%?([\w.-]+) = (.+?) ([\w-]+)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")


class Array(NamedTuple):
  """The type of an array."""

  dtype: str  # the compiler's name, such as "f32"
  sizes: tuple[int, ...]

  @property
  def numbers(self) -> int:
    """The number of array elements."""
    return math.prod(self.sizes)

  @property
  def bytes(self) -> int:
    """The size of those elements."""
    return self.numbers * bits(self.dtype) // 8


class Instruction(NamedTuple):
  """One line of a computation."""

  name: str
  result: str  # its type, such as "(f32[2,3]{1,0}, u8[0]{0})"
  op: str  # such as "fusion" or "all-gather-start"
  operands: tuple[str, ...]  # their names; a parameter has its number
  attributes: str  # the rest of the line
  is_root: bool  # whether it is the result of its computation

  @property
  def scope(self) -> str:
    """Where the program has it, "jit(train_step)/jvp()/conv1/add", or ""."""
    return self.attribute(r'op_name="([^"]*)"')

  @property
  def calls(self) -> str:
    """The name of the computation that a fusion or a call runs, or ""."""
    return self.attribute(r"\b(?:calls|to_apply)=%?([\w.-]+)")

  def attribute(self, pattern: str) -> str:
    """The first group of a regular expression in the attributes, or ""."""
    found = re.search(pattern, self.attributes)
    return found[1] if found else ""


class Program(NamedTuple):
  """The computations of a program, each a dict of instructions by name."""

  computations: dict[str, dict[str, Instruction]]
  entry: str  # name of the computation that the program starts with

  def root(self, computation: str) -> Instruction | None:
    """The instruction that is the result of a computation."""
    lines = self.computations.get(computation, {}).values()
    return next((line for line in lines if line.is_root), None)


@functools.lru_cache(maxsize=2)  # a text is read for several questions
def parse(text: str) -> Program:
  """Reads `compiled.as_text()`.

  Lines outside of a computation belong to one without a name, which is the
  entry of a text that has no other.
  """
  computations: dict[str, dict[str, Instruction]] = {"": {}}
  current = entry = ""
  for line in text.splitlines():
    if header := _COMPUTATION.match(line):
      current = header[2]
      computations[current] = {}
      entry = current if header[1] else entry
    elif found := _INSTRUCTION.match(line):
      root, name, result, op, rest = found.groups()
      end = _closing(rest)
      operands = re.findall(r"%([\w.-]+)", rest[:end]) or [rest[:end]]
      computations[current][name] = Instruction(
        name, result, op, tuple(operands), rest[end:], bool(root)
      )
    elif line == "}":
      current = ""
  return Program(computations, entry)


def _closing(text: str) -> int:
  """The position of the bracket that closes one opened before `text`."""
  depth = 1
  for bracket in re.finditer(r"[()]", text):
    depth += 1 if bracket[0] == "(" else -1
    if not depth:
      return bracket.start()
  return len(text)


def arrays(result: str) -> list[Array]:
  """The arrays in the type of a result.

  "(f32[2,3]{1,0}, u8[])" has two, f32 of 2 x 3 and u8 of one element.
  """
  return [
    Array(dtype, tuple(int(size) for size in sizes.split(",") if size))
    for dtype, sizes in _ARRAY.findall(result)
  ]


def bits(dtype: str) -> int:
  """f32 -> 32, bf16 -> 16, f8e4m3fn -> 8, pred -> 8."""
  digits = re.search(r"\d+", dtype)
  return int(digits[0]) if digits else 8
