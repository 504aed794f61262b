"""Train the paper's ResNet-14 on GTSRB; --help lists the options."""

import sys

if __name__ == "__main__":
    sys.argv[0] = "keras-fim"  # so that a part of the package, and TensorFlow, is imported when it is first used
    from keras_fim.cli import train_script

    train_script("gtsrb")
