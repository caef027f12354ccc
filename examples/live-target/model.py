"""Makes a model of handwritten digits, for MLServer or MLflow: ``python model.py mlserver|mlflow FOLDER``.

To be run by the Python of the server's own environment, so that the versions agree. Writes digits.npz too:
inputs ``x`` (899, 64) float32 in [0, 1] and digits ``y`` that the model did not learn from.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split


def main(server: str, folder: Path) -> None:
    """Write the model, the settings of its server, and the inputs it did not learn from."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    known, left, known_y, left_y = train_test_split(x, y, test_size=0.5, random_state=0, stratify=y)
    fitted = LogisticRegression(max_iter=2000).fit(known, known_y)
    np.savez(folder / "digits.npz", x=left, y=left_y)
    if server == "mlserver":
        import joblib

        joblib.dump(fitted, folder / "model.joblib")
        settings = {
            "name": "digits",
            "implementation": "mlserver_sklearn.SKLearnModel",
            "parameters": {"uri": "./model.joblib", "version": "v1"},
        }
        (folder / "model-settings.json").write_text(json.dumps(settings), encoding="utf-8")
        return
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    import mlflow.models
    import mlflow.sklearn

    # Without a signature inputs are float64, and answers differ from the 8th digit on.
    signature = mlflow.models.infer_signature(known[:2], fitted.predict(known[:2]))
    mlflow.sklearn.save_model(fitted, folder / "model", pip_requirements=[], signature=signature)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
