"""`python -m quire.pocket.recipe`. What OpenMP shall do is said before it is loaded: its threads sleep where they wait
for each other. By default they spin, and where other programs need the cores too, two threads were measured slower
than one."""

import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if __name__ == "__main__":
    from .cli import main

    sys.exit(main())
