"""The score to beat without a neural network: TF-IDF of words and characters with ridge regression, on the same folds.

    python -m benchmarks.tfidf [DATA]

DATA is what ``Config.data`` takes; the default is the CLEAR corpus.
"""

import sys

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.metrics import root_mean_squared_error
from sklearn.pipeline import make_pipeline, make_union

from utils.config import Config
from utils.data import add_folds, load_table


def main(data: str) -> None:
    config = Config.make("clear", data=data)
    table = add_folds(load_table(config), config)
    for fold in range(config.n_folds):
        train, held_out = table[table["fold"] != fold], table[table["fold"] == fold]
        model = make_pipeline(
            make_union(
                TfidfVectorizer(min_df=2, sublinear_tf=True),
                TfidfVectorizer(
                    analyzer="char_wb", ngram_range=(2, 4), min_df=5, sublinear_tf=True, max_features=60_000
                ),
            ),
            Ridge(alpha=1.0, solver="sparse_cg"),
        )
        model.fit(train["excerpt"], train["target"])
        rmse = root_mean_squared_error(held_out["target"], model.predict(held_out["excerpt"]))
        mean = np.sqrt(((held_out["target"] - train["target"].mean()) ** 2).mean())
        print(f"fold {fold}: RMSE {rmse:.3f}, of predicting the mean {mean:.3f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "clear")
