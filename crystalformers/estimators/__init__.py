"""Models as scikit-learn knows them: a regressor that is trained, a transformer that is not. Needs scikit-learn.

X is a sequence, a pandas Series or a frame with a column `structure` or `cif`; its entries are pymatgen `Structure`,
ASE `Atoms`, `Crystal`, pymatgen dictionaries, the text of CIFs, or paths of structure files. It is no array of numbers.
"""

from crystalformers.extras import optional

with optional("sklearn", "an estimator"):
    from crystalformers.estimators.embedder import CrystalEmbedder
    from crystalformers.estimators.regressor import CrystalRegressor

__all__ = ["CrystalEmbedder", "CrystalRegressor"]
