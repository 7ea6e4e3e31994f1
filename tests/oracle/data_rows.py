"""Small data sets for the oracle tests of data scores, and scores as the engine asks for them."""

import json

import numpy as np
import pandas as pd

from core import catalogue
from core.data.clusters import spherical_kmeans
from core.data.dataset import Dataset
from core.data.evidence import Evidence
from core.data.methods import get

RNG = np.random.default_rng


def scored(name, dataset, vectors, params=(), beside=None, clusters=None):
    method = get("data_score", name)
    filled = catalogue.fill(method.card, dict(params))
    clusters = clusters or spherical_kmeans(np.nan_to_num(vectors), min(4, len(vectors)), 0)
    return method(Evidence(dataset, vectors, clusters, 0, name, method, filled, beside), filled)


def rows_of(texts=None, labels=None, count=None, **columns):
    count = count or len(texts if texts is not None else labels)
    frame = pd.DataFrame({"row": np.arange(count) + 10, **columns})
    names = () if labels is None else tuple(str(one) for one in range(int(np.max(labels)) + 1))
    return Dataset("rows", frame, texts, None, None if labels is None else np.array(labels), names)


def blobs(rows=90, groups=3, seed=0, wide=0.3):
    random = RNG(seed)
    labels = np.arange(rows) % groups
    return (np.eye(groups, 6)[labels] + random.normal(scale=wide, size=(rows, 6))).astype(np.float32), labels


def written(tmp_path, name, lines):
    file = tmp_path / name
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)
