"""``python -m spade demo``: from samples to embeddings and figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run the command."""
    parser = argparse.ArgumentParser(prog="python -m spade", description="Join H&E images and spatial gene expression.")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="train and embed a cohort, and write figures, model, stores and a report")
    demo.add_argument("--out", default="spade_demo", metavar="DIR", help="where to write (default: %(default)s)")
    demo.add_argument(
        "--data",
        metavar="DIR",
        help="folder with real samples: .zarr stores of SpatialData, a HEST-1k folder, or classic ST sections (one "
        "folder with an image and its tables each); default: a synthetic cohort",
    )
    demo.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of all random draws (default: %(default)s)"
    )
    options = parser.parse_args(arguments)

    from spade._demo import run

    try:
        report = run(options.out, options.data, options.seed)
    except (OSError, KeyError, ValueError) as error:
        # a KeyError shows its message as a repr
        print(f"error: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 1
    print(f"report: {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
