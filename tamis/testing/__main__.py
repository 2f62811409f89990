"""One process of `run_distributed`: ``python -m tamis.testing FOLDER OWNER``, started by torchrun."""

import sys

from tamis.testing.distributed import main

if __name__ == "__main__":
    main(*sys.argv[1:])
