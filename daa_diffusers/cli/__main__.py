"""`python -m daa_diffusers.cli` is `daa`."""

import sys

from .app import main

sys.exit(main())
