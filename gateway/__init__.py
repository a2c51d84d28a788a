"""The gateway: what callers talk to, the local stack of all services, and the command line."""
