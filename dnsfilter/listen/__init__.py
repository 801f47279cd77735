"""Listeners for streams: octets to the engine, octets back. They decide nothing."""
