"""A notebook in a kernel of its own; its cells are run a second time."""

import nbformat
from nbclient import NotebookClient

CELLS = [
    "import wandb",
    "run = wandb.init(project='notebook', config={'lr': 0.1})",
    "for step in range(10):\n    run.log({'loss': 1 / (step + 1)})",
    "run.log({'table': wandb.Table(columns=['a'], data=[[1], [2]]), 'text': 'a note'})",
    "run.summary['best'] = 0.5",
]
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
client = NotebookClient(notebook, timeout=300, kernel_name="python3")
with client.setup_kernel():
    for _ in range(2):
        for number, cell in enumerate(notebook.cells):
            client.execute_cell(cell, number)
    again = nbformat.v4.new_code_cell(CELLS[2])
    notebook.cells.append(again)
    client.execute_cell(again, len(CELLS))
    notebook.cells.append(nbformat.v4.new_code_cell("wandb.finish()"))
    client.execute_cell(notebook.cells[-1], len(CELLS) + 1)
