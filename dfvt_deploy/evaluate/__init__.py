"""`validate`: what each form of a model loses between PyTorch and a served answer, and the gate.

Enter through `validation.validate`. It builds the stages (`build_stages`), passes every image
through them and stores the results (`run`), adds these up (`summary`), judges
each stage (`judge`) and writes the report and the verdicts (`report`).
`datasets` reads labelled images and `metrics` scores answers on them.
"""
