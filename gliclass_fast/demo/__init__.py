"""The demo checkpoint: it is a small uni-encoder in stock GLiClass form, and `PATH` is its folder."""

from pathlib import Path

PATH = Path(__file__).parent
