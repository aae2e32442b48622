"""Groups and main directions of relevance profiles: k-means and principal components (scikit-learn, seeded)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lrp_lens.errors import InputError
from lrp_lens.markup import Html, frame, told
from lrp_lens.views import View


@dataclass(frozen=True, eq=False, repr=False)
class ProfileClusters:
    """k-means of profiles; cluster 0 is the largest."""

    table: pd.DataFrame
    """One row per profile: example, cluster, distance to the cluster's centre."""
    centres: View
    """dims ("component", "layer"): the mean profile of each cluster."""
    sizes: np.ndarray
    """[clusters] number of profiles."""
    inertia: float
    """Σ squared distance to the centres."""
    explained: float
    """1 − inertia / Σ squared distance to the mean of all; NaN if all profiles are equal."""

    def plot(self) -> Any:
        """The mean profile of each cluster, through the layers."""
        return _lines(self.centres)

    def __repr__(self) -> str:
        return (
            f"ProfileClusters of {self.sizes.tolist()} profiles, {self.explained:.3f} of the spread explained"
        )

    def _repr_html_(self) -> Html:
        return told(repr(self), frame(self.table.round(4), border=0))


@dataclass(frozen=True, eq=False, repr=False)
class PrincipalComponents:
    """Principal components of profiles."""

    scores: pd.DataFrame
    """One row per profile: example, PC1, PC2, …"""
    directions: View
    """dims ("component", "layer"): unit vectors; the entry largest in magnitude is positive."""
    explained_variance: np.ndarray
    """[components] share of the variance."""

    def plot(self) -> Any:
        """Each direction, through the layers."""
        return _lines(self.directions)

    def __repr__(self) -> str:
        return f"PrincipalComponents of {len(self.scores)} profiles, shares {self.explained_variance.round(3).tolist()}"

    def _repr_html_(self) -> Html:
        return told(repr(self), frame(self.scores.round(4), border=0))


def cluster_profiles(profiles: View, clusters: int = 3, *, seed: int = 0) -> ProfileClusters:
    """k-means, the best of ten starts, clusters numbered by size.

    Args:
        profiles: dims ("batch", "layer"), from `profiles`.
        clusters: how many.
        seed: of the starts.

    Example:
        >>> cluster_profiles(View(np.array([[0.0, 1], [0, 1.1], [1, 0]]), ("batch", "layer")), 2).sizes.tolist()
        [2, 1]

    Raises:
        InputError: other dims, missing values, or fewer different profiles than clusters.
    """
    from sklearn.cluster import KMeans

    values = _matrix(profiles)
    different = len(np.unique(values, axis=0))
    if not 1 <= clusters <= different:
        raise InputError(
            f"k-means makes 1 cluster up to one per different profile, {different} here; received {clusters}."
        )
    fitted = KMeans(clusters, n_init=10, random_state=seed).fit(values)
    sizes = np.bincount(fitted.labels_, minlength=clusters)
    order = np.lexsort((np.array([fitted.labels_.tolist().index(one) for one in range(clusters)]), -sizes))
    number = np.argsort(order)[fitted.labels_]
    centres = fitted.cluster_centers_[order]
    distance = np.linalg.norm(values - centres[number], axis=1)
    inertia, spread = float((distance**2).sum()), float(((values - values.mean(axis=0)) ** 2).sum())
    names = profiles.axis_labels("batch")
    labels = {
        "component": tuple(f"cluster {i}" for i in range(clusters)),
        "layer": profiles.axis_labels("layer"),
    }
    return ProfileClusters(
        table=pd.DataFrame({"example": names, "cluster": number, "distance": distance}),
        centres=View(centres, ("component", "layer"), labels, "cluster centres", profiles.units),
        sizes=sizes[order],
        inertia=inertia,
        explained=1 - inertia / spread if spread > 0 else float("nan"),
    )


def principal_components(profiles: View, components: int = 2) -> PrincipalComponents:
    """PCA of the profiles, centred and not scaled.

    Args:
        profiles: dims ("batch", "layer"), from `profiles`.
        components: how many; at most the number of profiles and of boundaries.

    Example:
        >>> found = principal_components(View(np.array([[0.0, 1], [2, 1], [4, 1]]), ("batch", "layer")), 1)
        >>> found.directions.values.tolist()
        [[1.0, 0.0]]

    Raises:
        InputError: other dims, missing values, too many components, or profiles that are all equal.
    """
    from sklearn.decomposition import PCA

    values = _matrix(profiles)
    if not 1 <= components <= min(values.shape):
        raise InputError(
            f"{values.shape[0]} profiles of {values.shape[1]} boundaries have at most {min(values.shape)} components; "
            f"received {components}."
        )
    if not np.ptp(values, axis=0).any():
        raise InputError(
            "Principal components need profiles that differ; all of these are equal. Add graphs of other prompts."
        )
    fitted = PCA(components, svd_solver="full").fit(values)
    directions = fitted.components_
    sign = np.sign(directions[np.arange(components), np.abs(directions).argmax(axis=1)])
    names = tuple(f"PC{i + 1}" for i in range(components))
    scores = pd.DataFrame(fitted.transform(values) * sign, columns=list(names))
    scores.insert(0, "example", profiles.axis_labels("batch"))
    labels = {"component": names, "layer": profiles.axis_labels("layer")}
    return PrincipalComponents(
        scores,
        View(
            directions * sign[:, None], ("component", "layer"), labels, "principal components", "unit vector"
        ),
        fitted.explained_variance_ratio_,
    )


def _lines(view: View) -> Any:
    """A line for each component of a view, dims (component, layer)."""
    from lrp_lens.plots.runs import plot_run_profiles

    names = {"layer": view.axis_labels("layer")}
    rows = zip(view.axis_labels("component"), view.values, strict=True)
    return plot_run_profiles(
        {name: View(row[None], ("batch", "layer"), names, name, view.units) for name, row in rows}
    )


def _matrix(profiles: View) -> np.ndarray:
    if profiles.dims != ("batch", "layer"):
        raise InputError(
            f"Profiles have the dims ('batch', 'layer'); received {profiles.dims}. Make them with profiles()."
        )
    if np.isnan(profiles.values).any():
        raise InputError(f"Profiles have no missing values; received {int(np.isnan(profiles.values).sum())}.")
    return np.asarray(profiles.values, dtype=np.float64)
