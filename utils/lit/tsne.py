"""t-SNE for the map of embeddings: LIT offered it once, and has only PCA and UMAP left."""

import numpy as np
from lit_nlp.api import model, types
from sklearn.manifold import TSNE
from sklearn.neighbors import KNeighborsRegressor


class TSNEModel(model.ProjectorModel):
    """Places the texts that it is fitted with. A later one gets a place among its nearest neighbours.

    Args:
        n_components: dimensions of the map.
    """

    def __init__(self, n_components: int = 3):
        self._components = n_components
        self._places: KNeighborsRegressor | None = None

    def fit_transform(self, inputs: list[types.JsonDict]) -> list[types.JsonDict]:
        vectors = np.array([one["x"] for one in inputs])
        if len(vectors) <= self._components:  # too few to tell near from far
            return [{"z": np.zeros(self._components)} for _ in inputs]
        perplexity = min(20.0, (len(vectors) - 1) / 3)
        places = TSNE(self._components, perplexity=perplexity, init="pca", random_state=0).fit_transform(
            vectors
        )
        neighbours = KNeighborsRegressor(min(5, len(vectors)), weights="distance")
        self._places = neighbours.fit(vectors, places)
        return [{"z": place} for place in places]

    def predict_minibatch(self, inputs: list[types.JsonDict]) -> list[types.JsonDict]:
        if self._places is None:
            return [{"z": np.zeros(self._components)} for _ in inputs]
        return [{"z": place} for place in self._places.predict(np.array([one["x"] for one in inputs]))]
