"""``python -m tamis``: the same as the ``tamis`` command."""

from tamis.cli import main

raise SystemExit(main())
