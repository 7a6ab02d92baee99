"""Request after request: each step leaves an adapter on top of those before it."""
