"""Stand in for Python in a job: the process is forked elsewhere, gets the signals of this one, and gives its status.

Few modules, as each start imports them: this process is Python without its packages, and starts in no time.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def main(address: str, *words: str) -> None:
    """Have ``words`` run by the server of an address, and end as they end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # one that comes early is handed on, too
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        given = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()
        socket.send_fds(server, [len(given).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(given)
        for number in SIGNALS:
            signal.signal(number, lambda number, _: server.sendall(bytes([number])))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        (status,) = server.recv(1) or (255,)
    if status > 128:  # ended by a signal
        signal.signal(status - 128, signal.SIG_DFL)
        os.kill(os.getpid(), status - 128)
    sys.exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
