"""The command line, gliclass-fast: one module per command, and what they share."""
