"""Submitted transfers: kept until they are done, whatever dies meanwhile."""
