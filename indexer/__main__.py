"""`python -m indexer` is `cm`."""

from .main import main

main()
