"""``python -m contrastive``."""

import sys

from contrastive.cli import main

sys.exit(main())
