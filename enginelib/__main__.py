"""``python -m enginelib`` is the command ``enginelib``."""

from enginelib.cli import main

main()
