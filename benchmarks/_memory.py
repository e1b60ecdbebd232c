"""Memory of a process."""

import threading
from pathlib import Path


def status_mib(name):
    """A figure of ``/proc/self/status`` in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith(f"{name}:"))


def peak_mib():
    """Peak resident memory of this process in MiB; ``getrusage`` would count that of its parent process as well."""
    return status_mib("VmHWM")


class AnonymousPeak:
    """Watches memory that is not mapped from a file; ``peak`` is the most in MiB beyond what there was before."""

    def __enter__(self):
        self.before, self.peak, self._stop = status_mib("RssAnon"), 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._stop.wait(0.01):
            self.peak = max(self.peak, status_mib("RssAnon") - self.before)

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
