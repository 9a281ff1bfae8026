"""placeholder"""


def describe(folder, owner, record, card): ...
