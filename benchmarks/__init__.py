"""Measurements of the library, each beside its floor or a peer."""
