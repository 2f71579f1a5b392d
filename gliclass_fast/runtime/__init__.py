"""A network on a device: batches, CUDA graphs, dtypes, memory."""
