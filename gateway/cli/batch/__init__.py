"""``dpst batch``: many photos, one style."""

from gateway.cli.batch.command import batch

__all__ = ["batch"]
