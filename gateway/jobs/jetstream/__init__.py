"""Submitted transfers and their files in NATS JetStream, for gateways on many machines."""
