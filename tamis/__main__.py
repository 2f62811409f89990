"""``python -m tamis``: the same as the ``tamis`` command."""

from tamis.cli.main import main

raise SystemExit(main())
