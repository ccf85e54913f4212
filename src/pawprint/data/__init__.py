"""Photographs: from a source to class folders, and from those to the prepared dataset."""
