"""Files, labels, crops and augmentation."""

import os

# Before any module of this package imports albumentations, which otherwise looks for a newer version on the network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
