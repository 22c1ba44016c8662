"""`tune`: the settings of `populate` that are best on this machine. Enter at `tune.tune`;
`search` chooses what is measured next, and knows no server."""
