"""`plan`: how many servers a rate of images needs, and what they cost.

`figures` reads what one server was measured to need, `simulation` sends it requests, `planning`
searches the rate that one server takes and adds servers up. Enter at `planning.plan_with`.
"""
