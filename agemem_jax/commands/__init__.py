"""The programs: console commands of the package, and what the files of experiments/ call."""

import os

# transformers misses PyTorch, which nothing here needs, and says so when it is imported.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
