"""The paper's figures and tables, measured again."""
