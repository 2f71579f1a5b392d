"""A shortage of memory: the system, Python and PyTorch tell it in errors of many types."""

from __future__ import annotations

# of torch's allocators, of the system and of its loader
_WORDS = ("out of memory", "allocate memory", "not enough memory", "failed to map segment")


def is_shortage(error: BaseException) -> bool:
    """Tells whether an error says that memory is short, on a GPU or on the host.

    It needs no torch, whose own import may be what fails.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # Python's, torch's
        return True
    typed = isinstance(error, (RuntimeError, OSError, ImportError))
    return typed and any(words in str(error) for words in _WORDS)
