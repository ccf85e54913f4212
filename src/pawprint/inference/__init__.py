"""A model folder to predictions: classifier, backends, OOD score, heat map."""
