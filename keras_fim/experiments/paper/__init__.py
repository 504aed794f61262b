"""The paper's figures and tables, measured again; `reproduce` writes them."""

__all__: list[str] = []
