"""What makers of the engine run: it is in no wheel."""
