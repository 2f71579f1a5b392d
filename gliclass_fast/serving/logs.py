"""The log of a service: one JSON object a line, on standard error."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone

_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonLines(logging.Formatter):
    """Writes a record as JSON: time, level, logger, event, and whatever a call gave as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns one line."""
        moment = datetime.fromtimestamp(record.created, timezone.utc)
        line = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _ORDINARY}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def use_json(level: str) -> None:
    """Writes everything that is logged in this process as JSON; replaces other handlers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
