"""Train the paper's VGG-11 on CIFAR-10; --help lists the options."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from keras_fim.cli import train_script

if __name__ == "__main__":
    train_script("cifar10")
