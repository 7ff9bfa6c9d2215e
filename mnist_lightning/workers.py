"""The processes that Lightning starts beside the first one of a run: they end together. No torch here."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, MutableSequence
from contextlib import contextmanager, suppress

Process = subprocess.Popen[bytes]
PARENT = "MNIST_LIGHTNING_PARENT"
"""The environment variable by which processes know the one that starts them."""
PATIENCE_S = 20
"""How long the first process may take to notice by itself that another one has failed, once they know each other."""


class Workers:
    """Watches the processes of this machine that were started beside this one.

    Lightning's own watch kills this process in the middle of a word, before it can say what has happened.

    Attributes:
        processes: The processes; none until they are started.
        patience_s: How long this one may take to notice that another one has failed.
    """

    def __init__(self) -> None:
        self.processes: list[Process] = []
        self.patience_s = 3.0  # while they look for each other, nobody notices anything

    @contextmanager
    def watched(self, launched: Callable[[], MutableSequence[Process]]) -> Iterator[None]:
        """Takes processes from whoever launches them, and leaves none of them behind.

        Args:
            launched: Returns the launcher's list of them, which is emptied.
        """
        os.environ[PARENT] = str(os.getpid())
        is_over = threading.Event()
        watching = threading.Thread(target=self._watch, args=(launched, is_over), daemon=True)
        watching.start()
        try:
            yield
            with suppress(subprocess.TimeoutExpired):
                for process in self.processes:
                    process.wait(60)
        finally:
            os.environ.pop(PARENT, None)
            is_over.set()
            watching.join()
            self._take(launched())
            self._kill()

    def _take(self, started: MutableSequence[Process]) -> None:
        while started:
            self.processes.append(started.pop(0))

    def _watch(self, launched: Callable[[], MutableSequence[Process]], is_over: threading.Event) -> None:
        noticed = 0.0
        while not is_over.wait(0.2):
            self._take(launched())
            if not noticed and any(process.poll() for process in self.processes):
                noticed = time.monotonic()
            if noticed and time.monotonic() > noticed + self.patience_s:
                problem, number = self.find_dead()
                print(f"error: {problem}", file=sys.stderr, flush=True)
                sys.stdout.flush()
                self._kill()
                os._exit(128 + number if number in (signal.SIGINT, signal.SIGTERM) else 1)

    def find_dead(self) -> tuple[str, int]:
        """Says which one ended by itself, if one did, and by which signal; this process's error is only its echo."""
        end = time.monotonic() + 3
        while self.processes and time.monotonic() < end:
            dead = {number: status for number, process in enumerate(self.processes, 1) if (status := process.poll())}
            if dead:
                number, status = min(dead.items(), key=lambda item: item[1] == 1)  # status 1 may be an echo, too
                killed_by = -status if status < 0 else max(0, status - 128)
                how = f"was ended by signal {killed_by}" if killed_by else "failed with the error above"
                return f"process {number} of {len(self.processes)} beside this one {how}", killed_by
            time.sleep(0.1)
        return "", 0

    def _kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def end_with_parent() -> None:
    """Ends this process when the one that started it is gone, whatever this one waits for."""
    parent = int(os.environ.get(PARENT, os.getppid()))  # which may be gone by now

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
