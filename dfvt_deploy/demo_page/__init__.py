"""A web page to try the models of a running Triton server.

Enter through `server.demo`. The page and its script are plain files in `page/`.
"""
