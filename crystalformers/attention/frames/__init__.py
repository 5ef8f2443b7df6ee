"""Local frames (CrystalFramer, ICLR 2025) and the angular part of the value encoding."""
