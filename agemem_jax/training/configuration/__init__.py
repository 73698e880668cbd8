"""The options of a run: built, checked, recorded, and compared with earlier records."""
