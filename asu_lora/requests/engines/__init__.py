"""Where requests are trained: ``local``, one after the other here, or ``ray``, on whatever machines there are."""

ENGINES = ("local", "ray")
