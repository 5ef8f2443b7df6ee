"""Models as scikit-learn knows them: a regressor that is trained, a transformer that is not. Needs scikit-learn.

X is a sequence, a pandas Series or a frame with a column `structure` or `cif`; its entries are pymatgen `Structure`,
ASE `Atoms`, `Crystal`, pymatgen dictionaries, the text of CIFs, or paths of structure files. It is no array of numbers.
"""

from crystalformers.errors import ConfigError

try:
    from crystalformers.estimators.embedder import CrystalEmbedder
    from crystalformers.estimators.regressor import CrystalRegressor
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "sklearn":
        raise
    raise ConfigError("scikit-learn is not installed", remedy="pip install 'crystalformers[sklearn]'") from error

__all__ = ["CrystalEmbedder", "CrystalRegressor"]
