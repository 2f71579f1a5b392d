"""A network on a device: these modules make its batches, CUDA graphs, dtype and memory."""
