"""`export`: a PyTorch model to a checked ONNX file with its manifest.

Enter through `export.export`. A task says in its file how its graph is exported and on which inputs
it is checked (`recipe.ExportRecipe`).
"""
