"""`lint`: what would stop a Triton model repository from loading, or make it answer wrongly.

Start in `run.py`. `reading.py` reads a repository as Triton does, the files `check_*.py` hold the
checks, and `rules.py` lists what they can find. No server and no GPU is needed, and nothing of the
repository is executed.
"""
