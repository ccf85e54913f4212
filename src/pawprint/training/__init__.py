"""From prepared photographs to a model folder: features, fit, export."""
