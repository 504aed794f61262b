"""Train the paper's ResNet-14 on GTSRB; --help lists the options."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from keras_fim.cli import train_script

if __name__ == "__main__":
    train_script("gtsrb")
