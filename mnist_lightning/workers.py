"""The processes that Lightning starts beside the first one of a run: they end together. No torch here."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager

PATIENCE_S = 20
"""How long the first process may take to notice by itself that another one has failed."""
Process = subprocess.Popen[bytes]


class Workers:
    """Watches the processes of this machine that were started beside this one.

    Lightning's own watch kills this process in the middle of a word, before it can say what has happened.

    Attributes:
        processes: The processes; none until they are known.
    """

    def __init__(self) -> None:
        self.processes: list[Process] = []

    def take(self, started: MutableSequence[Process]) -> None:
        """Takes processes from whoever watched them, and ends this one with them, should it wait for a dead one."""
        self.processes = list(started)
        started.clear()
        threading.Thread(target=self._end_with_them, daemon=True).start()

    def _end_with_them(self) -> None:
        while all(process.poll() is None for process in self.processes):
            time.sleep(1)
        if any(process.returncode for process in self.processes):
            time.sleep(PATIENCE_S)
            print("error: another process of this run has failed", file=sys.stderr, flush=True)
            self._kill()
            os._exit(1)

    def find_dead(self) -> str:
        """Says which one ended by itself, if one did: then this process's error is only its echo."""
        end = time.monotonic() + 3
        while self.processes and time.monotonic() < end:
            for number, process in enumerate(self.processes, 1):
                if status := process.poll():
                    how = f"was killed by signal {-status}" if status < 0 else "failed with the error above"
                    return f"process {number} of {len(self.processes)} beside this one {how}"
            time.sleep(0.1)
        return ""

    @contextmanager
    def ended(self) -> Iterator[None]:
        """Leaves none of them behind: they may end by themselves if this process comes to its end, too."""
        try:
            yield
            for process in self.processes:
                process.wait(60)
        finally:
            self._kill()

    def _kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
