"""Files that ship with the package: the CIFAR-10 sample and the mean training image."""
