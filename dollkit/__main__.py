"""``python -m dollkit``: every command, see `dollkit.workflow.cli`."""

import sys

from dollkit.workflow.cli import main

sys.exit(main())
