"""The page over a whole store: requests, adapters, certificates, what is served, and how it went over time."""
