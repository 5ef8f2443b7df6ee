"""What each picture of a report shows and what it does not show; `{...}` is filled in from the study."""

from __future__ import annotations

from typing import NamedTuple


class Caption(NamedTuple):
    """Text of a picture.

    Attributes:
        title: above the picture.
        shows: what it shows.
        limits: what it does not show, or what to keep in mind.
    """

    title: str
    shows: str
    limits: str

    def filled(self, **facts: object) -> Caption:
        """The caption with the facts filled in."""
        return Caption(*(text.format(**facts) for text in self))


CAPTIONS = {
    "families": Caption(
        "Families of elements",
        "The {families} families (clusters) that Ward's method finds in the {leading} leading components of the "
        "vectors. The number on each tile is that of its family.{rare}",
        "Empty tiles have no vector: a trained table has none for elements that did not occur in training. The borders "
        "between families are cuts through a tree, not sharp boundaries; the table below shows which families are "
        "found again when some elements are left out.",
    ),
    "number": Caption(
        "How many families?",
        "Mean silhouette (how much closer elements are to their own family than to the nearest other one) and gap "
        "statistic for each number of families. W is the sum of squared distances to the centres of the families; the "
        "gap compares it with points drawn uniformly from the same box. Error bars: standard deviation of the "
        "silhouette when a fifth of the elements is left out; standard error of the gap. Bands: 95 % of what chance "
        "gives, for a single normal distribution with the same covariance (one cloud) and for independently shuffled "
        "coordinates. Dotted: the number of families that each criterion chooses.",
        "A curve above the bands means that there is structure. A curve without a clear peak means that no single "
        "number of families is right and that neighbouring numbers are as good.",
    ),
    "map": Caption(
        "Map of the elements ({method})",
        "Elements are placed near their nearest neighbours and coloured by family; the legend names the most typical "
        "members.{rare}",
        "Only neighbourhoods have a meaning: directions, large distances and the sizes of gaps have none. The families "
        "were found in the space of the vectors, not in this map. Discs that would overlap are moved apart.",
    ),
    "components": Caption(
        "First two principal components",
        "The plane in which the vectors differ most, coloured by block of the periodic table.{rare}",
        "It contains {plane} % of the variance; elements that are close here may be far apart in the other components. "
        "Discs that would overlap are moved apart.",
    ),
    "distances": Caption(
        "All distances",
        "Distances between all pairs of elements in the leading components, in the order of Ward's tree above. Bright "
        "blocks on the diagonal are families; bright patches elsewhere are similarities between families.",
        "The order within a branch was chosen for readability; only the heights of the tree and the colours are data.",
    ),
    "component-1": Caption(
        "Principal component 1 over the periodic table",
        "The score of each element on the component with {share_1} % of the variance.{rare}",
        "The sign of a component is arbitrary, and components of other seeds may divide the variance differently.",
    ),
    "component-2": Caption(
        "Principal component 2 over the periodic table",
        "The score of each element on the component with {share_2} % of the variance.{rare}",
        "The sign of a component is arbitrary, and components of other seeds may divide the variance differently.",
    ),
    "correlations": Caption(
        "How the components relate to known properties",
        "Spearman correlation of each leading component with properties of the elements. Bold: larger than the largest "
        "of all cells in 95 % of permutations of the elements.",
        "A correlation does not imply a cause, and the properties are correlated with each other. The column 'training "
        "crystals', if there is one, shows what may only reflect how often an element occurred in training.",
    ),
    "probes": Caption(
        "Properties predicted from the vectors",
        "R² of a ridge regression for elements that were left out of its fit (number of elements in brackets); 0 is as "
        "good as the mean of the other elements. Bars: single elements left out. Diamonds: whole groups of the "
        "periodic table left out; all lanthanides and actinides belong to group 3. Dots: single seeds, if there are "
        "several.",
        "Hatched: a column of the table is the property itself, so the probe says nothing. Tables of physical "
        "properties also contain close relatives of the other properties. R² does not say how useful a table is to a "
        "model of crystals.",
    ),
    "likeness": Caption(
        "Do tables agree on which elements are alike?",
        "Spearman correlation between the distances in two tables over all pairs of elements; on the diagonal, between "
        "the seeds of one training. Bold: less than 5 % of permutations of the elements reach it (Mantel test).",
        "Agreement is not quality: two tables may share the same error. Where all distances are equal, as between "
        "one-hot vectors, there is nothing to correlate, and the cells are empty.",
    ),
}
"""In the order of the page."""
