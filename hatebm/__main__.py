"""`python -m hatebm` is the command `hatebm`."""

import sys

from hatebm.cli import main

sys.exit(main())
