"""A first config from measured data: the fingerprint of the images and masks, and the options that follow from it."""
