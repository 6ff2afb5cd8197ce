"""NumPyro models and JAX log densities, evaluated and advanced by JAX.

Only `inference.backends.load` imports this package: JAX is an optional dependency. Random
numbers, minibatches, storage and checkpoints are those of the torch backend.
"""
