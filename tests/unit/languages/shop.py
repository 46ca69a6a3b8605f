"""A basket of prices."""

from __future__ import annotations

import functools

LIMIT = 10


# What a customer carries.
@functools.total_ordering
class Basket:
    """Holds prices."""

    def __init__(self) -> None: ...
    # Prices are in cents.
    @functools.singledispatchmethod
    def add(
        self,
        price: int,
    ) -> None:
        """Put something in."""

    def total(self) -> int:
        def double(x):
            return 2 * x

        return double(1)


if LIMIT:
    # Pays.
    async def checkout(basket):
        return basket
else:
    pass

if __name__ == "__main__":
    print(Basket().total())
