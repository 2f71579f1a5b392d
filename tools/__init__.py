"""Tools that makers of the engine run: they are in no wheel."""
