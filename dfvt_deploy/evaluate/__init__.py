"""`validate`: what each form of a model loses between PyTorch and a served answer, and the gate.

Enter through `validation.validate`. It builds the stages (`build_stages`), passes every image
through them (`run`), stores each image's result (`store`), adds the results up (`summary`), judges
each stage (`judge`, `gate`) and writes the report (`report`) and the verdicts (`record`).
`datasets` reads labelled images and `metrics` scores answers on them.
"""
