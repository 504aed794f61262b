"""The paper's figures and tables measured again, and the defenses compared on its three datasets.

Run from a clone of the repository: ``python -m reproduction --help``.
"""

__all__: list[str] = []
