"""AlexNet (NIPS 2012) in JAX: the paper's two GPUs are two towers."""
