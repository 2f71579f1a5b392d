"""The demo checkpoint: a small uni-encoder in stock GLiClass form. `PATH` is its folder."""

from pathlib import Path

PATH = Path(__file__).parent
