"""Slow formulas written from the papers, to check the package against; nothing here imports the package."""
