"""The first commands of a new user: `quickstart` and `doctor`.

`quickstart.py` takes one model from export to a live server's answers; `digits.py` has the model of
its example, and `training.py` how it learns. `doctor.py` says what this machine lacks, and
`options.py` has the options of both.
"""
