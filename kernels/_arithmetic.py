"""Arithmetic of sizes, for kernels of every kind."""


def ceil_div(a: int, b: int) -> int:
    """Returns a / b, rounded up."""
    return -(-a // b)
