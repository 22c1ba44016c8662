"""`plan`: how many servers a rate of images needs, and what they cost.

`figures` says what one server was measured to need, and reads it from a file;
`simulation` sends it requests, `planning` searches the rate that one server takes and adds servers
up. Enter at `planning.plan`.
"""
