"""The version of tamis: the one place where it stands."""

__version__ = "0.2.0.dev0"
