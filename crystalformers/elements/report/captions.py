"""What each picture of a report shows and what it does not; `{...}` is filled in from the study."""

from __future__ import annotations

from typing import NamedTuple


class Caption(NamedTuple):
    """Words of a picture.

    Attributes:
        title: above it.
        shows: what it shows.
        limits: what it does not show.
    """

    title: str
    shows: str
    limits: str

    def filled(self, **facts: object) -> Caption:
        """The same with the facts put in."""
        return Caption(*(words.format(**facts) for words in self))


CAPTIONS = {
    "families": Caption(
        "Families of elements",
        "The {families} families that Ward's tree finds in the {leading} leading components of the vectors. "
        "Each tile carries the number of its family.{rare}",
        "Empty tiles have no vector; a trained table has none for elements it never saw. The borders between families "
        "are cuts through a tree, not walls; the table below tells which families return when elements are left out.",
    ),
    "number": Caption(
        "How many families?",
        "Silhouette (how much closer elements are to their own family than to the next) and gap statistic for each "
        "number of families (W: squared distances to the centres of the families, summed; the gap is to points spread "
        "evenly over the same box). Error bars: standard deviation of the silhouette when a fifth of the elements is "
        "left out, standard error of the gap. Bands: 95 % of what chance gives in one normal cloud with the same "
        "spread in every direction, and with every coordinate shuffled. Dotted: the number that each criterion "
        "chooses.",
        "A curve above the bands says that there is structure. A curve without a clear peak says that no single number "
        "of families is right, and that its neighbours are as good.",
    ),
    "map": Caption(
        "Map of the elements ({method})",
        "Each element near its nearest neighbours, coloured by family; the legend names the most typical "
        "members.{rare}",
        "Only neighbourhoods mean something: directions, far distances and the sizes of gaps do not. The families come "
        "from the full space, not from this picture. Discs that would overlap are pushed apart.",
    ),
    "components": Caption(
        "First two principal components",
        "The plane in which the vectors differ most, coloured by block of the periodic table.{rare}",
        "It holds {plane} % of the variance; neighbours here may be far apart in the rest. Discs that "
        "would overlap are pushed apart.",
    ),
    "distances": Caption(
        "All distances",
        "Distance between every two elements in the leading components, in the order of Ward's tree above. Bright "
        "blocks on the diagonal are families; bright patches off it are likenesses between families.",
        "The order within a branch is chosen for the eye; only the heights of the tree and the colours are numbers.",
    ),
    "component-1": Caption(
        "Principal component 1 over the periodic table",
        "The score of each element on the component that carries {share_1} % of the variance.{rare}",
        "The sign of a component is arbitrary, and tables of other seeds may share their variance out differently.",
    ),
    "component-2": Caption(
        "Principal component 2 over the periodic table",
        "The score of each element on the component that carries {share_2} % of the variance.{rare}",
        "The sign of a component is arbitrary, and tables of other seeds may share their variance out differently.",
    ),
    "correlations": Caption(
        "What the components have to do with known properties",
        "Spearman correlation of each leading component with properties of the elements. Bold: beyond the largest of "
        "all cells in 95 % of permutations of the elements.",
        "A correlation is no cause, and properties are correlated with each other. 'Training crystals', where it is "
        "shown, tells what may come from how often an element was seen.",
    ),
    "probes": Caption(
        "Properties read off the vectors",
        "R² of a ridge regression for elements that it was not fitted to (their number in brackets); 0 is what the "
        "mean of the others gives. Bars: each element left out. Diamonds: a whole group of the periodic table; "
        "all lanthanides and actinides go with group 3. Dots, where there are several seeds: each of them.",
        "Hatched: the table holds this very property, so there is nothing to find out. Tables of physical properties "
        "also hold close relatives of the others. No bar says how well a table serves a model of crystals.",
    ),
    "likeness": Caption(
        "Do tables see the same likenesses?",
        "Spearman correlation between the distances in two tables over all pairs of elements; on the diagonal between "
        "the seeds of one training. Bold: less than 5 % of permutations of the elements reach it (Mantel test).",
        "Alike is not good: two tables may share the same error. Where all elements are equally far from each other, "
        "as in one-hot codes, there is no order of distances, and the cells stay empty.",
    ),
}
"""In the order of the page."""
