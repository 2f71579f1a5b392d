"""Says which tests of the reference pass behind the shim, and why each of the others cannot."""

from __future__ import annotations

from pathlib import Path

PASSES = set(Path(__file__).with_name("passing.txt").read_text(encoding="utf-8").split("\n")) - {""}

# The reason, then the number of tests and the patterns of their names.
LACKS: dict[str, tuple[int, tuple[str, ...]]] = {
    "losses and rewards of training": (24, ("test_loss_functions.*", "*.TestDefaultF1Reward.*")),
    "collation and data sets of training": (12, ("test_data_processing.*",)),
    "losses and depths of training decoder-kv": (
        8,
        ("*_loss_*", "*_losses_*", "*.test_improvement_*", "*_entropy_*", "*_lr_*", "*.test_resolve_*"),
    ),
    "the text's row of a section without a <<SEP>>: ours becomes zeros where it is compared": (
        1,
        ("*.test_missing_sep_*",),
    ),
    "a number of steps per call: ours is the checkpoint's": (1, ("*.test_plain_scorer_rejects_*",)),
    "images and audio": (6, ("test_multimodal.*",)),
    "fitting a calibrator": (5, ("test_calibration.*",)),
    "a function that tells whether a package is installed": (3, ("*.TestIsModuleAvailable.*",)),
}

# The blocks of Python in the reference's README that do not run, by their number from 0, and why.
BLOCKS = 14
FAILING_BLOCKS: dict[int, str] = {
    9: "serving over HTTP: it calls a server",
    13: "streaming: the names that it imports are not in the reference itself",
}
# These classify, and the reference gives the same results. (In the one after them it reads labels in the
# order of a set.)
CLASSIFYING_BLOCKS = range(1, 8)
