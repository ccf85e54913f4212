"""The best model as a service: the only package that imports BentoML."""
