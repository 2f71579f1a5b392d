"""What `python -m tools.fuzz` is made of: random requests, damaged files, sizes of kernels, and checks."""
