"""The programs: console commands of the package, and what the files of experiments/ call."""
