"""`bench`: how fast each form of a model is here, beside what it costs in accuracy.

Enter at `bench.bench`. `offline` times networks, each in a process of its own, in shuffled
order; `served` asks a live server and checks every answer; `results` holds what both found.
"""
