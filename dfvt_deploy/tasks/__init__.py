"""Pre- and postprocessing of each task: numpy, Pillow and OpenCV only, on Python 3.10 to 3.13.

`populate` copies this folder into every model repository, so nothing here may import torch or
any other part of dfvt_deploy.
"""
