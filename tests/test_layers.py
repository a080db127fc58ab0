"""Data flows one way: a module imports only what stands in its own row or an earlier one."""

import ast

from mer_lab.figures import ROOT

ROWS = (
    "errors files parallel provenance palette",
    "audio clips ragged checkpoints losses",
    "metrics statistics calibration conformal",  # training watches metrics
    "corpora",
    "features",
    "batches",
    "breakdown",
    "models",
    "prediction emap timing modality cost",
    "train_config",
    "training",
    "hierarchy",
    "inputs",
    "records degrade",
    "conversation",
    "answering transcription finetuning recorder",
    "runs",
    "experiments",
    "recipes robustness optimism explain",
    "plots figures doctor",
    "course demo",
    "comparison",
    "grid",
    "engine",
    "publish",
    "pages execution lessons site badges cli",
    "card_page",
    "cards",
    "exercises",
)
ROW = {name: k for k, row in enumerate(ROWS) for name in row.split()}


def test_no_module_imports_a_later_row():
    wrong = []
    for path in sorted((ROOT / "mer_lab").rglob("*.py")):
        own = path.relative_to(ROOT / "mer_lab").with_suffix("").parts[0]
        if own in ("__init__", "__main__"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mer_lab"):
                inside = node.module.split(".")[1:2]
                names = inside or [alias.name for alias in node.names if alias.name in ROW]
            elif isinstance(node, ast.Import):
                names = [a.name.split(".")[1] for a in node.names if a.name.startswith("mer_lab.")]
            wrong += [f"{path.name} imports {name}" for name in names if ROW[name] > ROW[own]]
    assert not wrong
    assert len(ROW) > 20
