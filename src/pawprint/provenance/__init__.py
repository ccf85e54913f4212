"""From an answer to its photographs and back (trace), and a training repeated (reproduce)."""
