"""The command line: ``tamis search``, ``show``, ``check``, ``demo``."""
