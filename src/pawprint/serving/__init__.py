"""The best model as a service: the only room that knows BentoML."""
