"""Snapshot: a network is built of one state of its origin, also while another thread changes a live model."""

from __future__ import annotations

import logging
import time

from gliclass_fast.models.configuration import read_config
from gliclass_fast.runtime.loaded import LoadedNetwork, load
from gliclass_fast.runtime.origin import Origin, Seen
from gliclass_fast.runtime.settings import Settings

logger = logging.getLogger(__name__)

_READINGS = 5  # of a live model that another thread changes meanwhile
_PATIENCE = 1.0  # seconds, in which the step of an optimizer may end
_NEVER_STILL = (
    "%s changed whenever its weights were copied, so that this copy may hold those of several steps; call "
    "the pipeline between the steps, or give on_change='ignore' and call refresh() there"
)


def take_snapshot(origin: Origin, settings: Settings) -> tuple[LoadedNetwork, Seen]:
    """Returns a network and what it was built of, for `Origin.remember`.

    Where another thread changes a live model while its tensors are read, they are read again; after several
    readings a warning says so. Raises the errors of a load.
    """
    for reading in range(1, _READINGS + 1):
        seen = _observed(origin)
        config = read_config(origin.options())
        tensors = origin.tensors()
        loaded = load(config, tensors, origin.name, settings)
        if seen.holds(tensors):
            break
        if reading < _READINGS:
            del loaded  # before another one takes as much memory
    else:
        logger.warning(_NEVER_STILL, origin.name)
    if loaded.graphs is not None:
        loaded.graphs.record_others = settings.record_others
    return loaded, seen


def _observed(origin: Origin) -> Seen:
    """Observes the origin while no step of its tensors is under way, or after some patience."""
    until = time.monotonic() + _PATIENCE
    while not (seen := origin.observe()).holds() and time.monotonic() < until:
        time.sleep(_PATIENCE / 100)
    return seen
