"""What `python -m tools.fuzz` is made of: random requests, damaged files and sizes of kernels, and their checks."""
