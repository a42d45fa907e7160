"""Experiments: one command for each question, and what they share."""

# Before JAX: prepares the libraries and variables that a command starts with.
import alexnet_jax  # noqa: F401
