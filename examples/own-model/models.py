"""Models of one's own, made from nothing that moatbench ships: ``python models.py FOLDER`` writes them.

They are the subjects of the transcript in README.md. None was tuned for it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

ADULT = [
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation"),
    *("relationship", "race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country"),
    "income",
]

LABELS_ONLY = '''"""A model that answers labels alone."""

import pandas as pd


def tariff(customers: pd.DataFrame):
    """Return a tariff for each customer."""
    points = customers.age / 10 + customers.smoker * 3 - customers.years_insured / 4
    return ["high" if each > 7 else "middle" if each > 5 else "low" for each in points]
'''


def adult(folder: Path, data: Path) -> None:
    """Write ``adult.csv`` and ``adult-train.csv``, and a pipeline over them as skops and as ONNX."""
    import skops.io
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    def read(name: str) -> pd.DataFrame:
        table = pd.read_csv(data / name, names=ADULT, skipinitialspace=True, comment="|", na_values="?")
        return table.assign(income=table.income.str.rstrip("."))

    train, test = read("adult.data"), read("adult.test")
    train.to_csv(folder / "adult-train.csv", index=False)
    test.to_csv(folder / "adult.csv", index=False)
    x, y = train.drop(columns="income"), train.income
    texts = [name for name in x if not pd.api.types.is_numeric_dtype(x[name])]
    numbers = [name for name in x if name not in texts]

    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = ColumnTransformer([("one-hot", one_hot, texts)], remainder="passthrough")
    boosting = make_pipeline(columns, HistGradientBoostingClassifier(random_state=0)).fit(x, y)
    skops.io.dump(boosting, folder / "boosting.skops")

    # ONNX knows no missing texts.
    filled = x.fillna(dict.fromkeys(texts, "unknown"))
    linear = make_pipeline(
        ColumnTransformer(
            [
                ("one-hot", OneHotEncoder(handle_unknown="ignore"), texts),
                ("scaled", StandardScaler(), numbers),
            ]
        ),
        LogisticRegression(max_iter=1000),
    ).fit(filled, y)
    kinds = [
        (name, StringTensorType([None, 1]) if name in texts else FloatTensorType([None, 1])) for name in x
    ]
    exported = to_onnx(linear, initial_types=kinds, options={"zipmap": False}, target_opset=17)
    (folder / "linear.onnx").write_bytes(exported.SerializeToString())
    test.fillna(dict.fromkeys(texts, "unknown")).to_csv(folder / "adult-filled.csv", index=False)


def pictures(folder: Path) -> None:
    """Write ``shapes/CLASS/*.png`` and a small convolutional network over them, as ``shapes.pt2``."""
    import torch
    from PIL import Image, ImageDraw
    from torch import nn

    rng = np.random.default_rng(0)

    def draw(kind: str) -> Image.Image:
        image = Image.fromarray(rng.integers(0, 60, (24, 24), dtype=np.uint8))
        left, top = rng.integers(1, 9, 2)
        size, ink = int(rng.integers(8, 14)), int(rng.integers(120, 255))
        box = [int(left), int(top), int(left) + size, int(top) + size]
        pen = ImageDraw.Draw(image)
        if kind == "circle":
            pen.ellipse(box, outline=ink, width=2)
        elif kind == "square":
            pen.rectangle(box, outline=ink, width=2)
        else:
            pen.polygon([(box[0], box[3]), (box[2], box[3]), ((box[0] + box[2]) // 2, box[1])], outline=ink)
        return image

    inputs, labels = [], []
    for number, kind in enumerate(("circle", "square", "triangle")):
        (folder / "shapes" / kind).mkdir(parents=True, exist_ok=True)
        for count in range(900):
            image = draw(kind)
            if count < 600:
                image.save(folder / "shapes" / kind / f"{count}.png")
            else:
                inputs.append(np.asarray(image, dtype=np.float32) / 255)
                labels.append(number)
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(16 * 36, 3), nn.Softmax(dim=1)),
    )
    x, y = torch.from_numpy(np.stack(inputs))[:, None], torch.tensor(labels)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(150):
        rows = torch.randint(len(x), (64,))
        loss = nn.functional.nll_loss(torch.log(network(x[rows]) + 1e-9), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(network.eval(), (x[:2],), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "shapes.pt2")


def tables(folder: Path) -> None:
    """Write ``tariff.py``, a model that answers labels, with ``customers.csv``; and a table of three rows."""
    rng = np.random.default_rng(0)
    customers = pd.DataFrame(
        {
            "age": rng.integers(18, 80, 2_000),
            "smoker": rng.random(2_000) < 0.3,
            "years_insured": rng.integers(0, 20, 2_000),
        }
    )
    customers.to_csv(folder / "customers.csv", index=False)
    customers.head(3).to_csv(folder / "three-rows.csv", index=False)
    (folder / "tariff.py").write_text(LABELS_ONLY, encoding="utf-8")


if __name__ == "__main__":
    here = Path(sys.argv[1])
    here.mkdir(parents=True, exist_ok=True)
    adult(here, Path(sys.argv[2]) / "adult")
    pictures(here)
    tables(here)
