"""The machine: devices, compute types, memory."""
