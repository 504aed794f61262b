"""`keras_fim.records` under the name that it had."""

from keras_fim.records import read_json, versions, write_json, write_text

__all__ = ["read_json", "versions", "write_json", "write_text"]
