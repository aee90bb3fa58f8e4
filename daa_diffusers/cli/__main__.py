"""Entry point of `python -m daa_diffusers.cli`, the same as `daa`."""

import sys

from .app import main

sys.exit(main())
