"""Benchmarks: one command for each comparison with other programs."""

# Before JAX: prepares the libraries and variables that a command starts with.
import alexnet_jax  # noqa: F401
