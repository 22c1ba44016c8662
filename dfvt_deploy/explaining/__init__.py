"""Heat maps of what an answer rests on, with figures of how far to believe them.

Enter through `explain.explain`. What differs between the tasks is one `TaskExplanation` in the
task's file of this package.
"""
