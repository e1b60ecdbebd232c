"""The process that :mod:`spade.models._seal_processes` starts: ``python -m spade.models._seal_worker ORDERS``."""

from __future__ import annotations

import sys

from spade.core.distributed.workers import serve
from spade.models._seal_processes import work

if __name__ == "__main__":
    raise SystemExit(serve(sys.argv[1], work))
