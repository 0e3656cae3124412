"""Where a rater is in a sheet, and what a key does there; no page, so that it can be tested."""

from __future__ import annotations

from rag_experiments.rating.criteria import Criterion
from rag_experiments.rating.ratings import RatingFile
from rag_experiments.rating.sheet import Item


class Session:
    """One rater's way through a sheet; begins at the first answer that is not rated in full."""

    def __init__(self, items: list[Item], file: RatingFile):
        self.items = items
        self.file = file
        self.answers = file.read(items)
        self.place = 0
        """Number of the item from 0; that of all items: the end."""
        self.step = 0
        """Number of the item's criterion that the next digit rates; that of all: none left."""
        self.to_first_open()

    @property
    def item(self) -> Item | None:
        """The answer in front of the rater; None at the end."""
        return self.items[self.place] if self.place < len(self.items) else None

    @property
    def criterion(self) -> Criterion | None:
        """What the next digit rates."""
        if self.item is None or self.step >= len(self.item.criteria):
            return None
        return self.item.criteria[self.step]

    @property
    def done(self) -> int:
        """How many answers are rated in full."""
        return sum(self.is_done(item) for item in self.items)

    def is_done(self, item: Item) -> bool:
        """Whether an answer is rated for every criterion."""
        return all((item.name, criterion.name) in self.answers for criterion in item.criteria)

    def rate(self, value: int) -> None:
        """Save a rating for the criterion in turn, where one is, and go to the next one."""
        item, criterion = self.item, self.criterion
        if item is not None and criterion is not None:
            self.save(item, criterion.name, value)
            self.step += 1

    def save(self, item: Item, field: str, value: int | str) -> None:
        """Save one field of an answer."""
        self.file.add(item.name, field, value)
        self.answers[item.name, field] = value

    def choose(self, step: int) -> None:
        """Go to a criterion of the same answer."""
        if self.item is not None:
            self.step = min(max(step, 0), len(self.item.criteria))

    def next(self) -> None:
        """Go to the next answer, from the end to the first that is not rated in full."""
        if self.item is None:
            self.to_first_open()
        else:
            self._open(self.place + 1)

    def previous(self) -> None:
        """Go to the answer before."""
        self._open(max(0, self.place - 1))

    def back(self) -> None:
        """Go to the criterion before, which may be the last one of the answer before."""
        if self.item is not None and self.step > 0:
            self.step -= 1
        elif self.place > 0:
            self.place -= 1
            self.step = len(self.items[self.place].criteria) - 1

    def to_first_open(self) -> None:
        """Go to the first answer that is not rated in full, else to the end."""
        opened = (i for i, item in enumerate(self.items) if not self.is_done(item))
        self._open(next(opened, len(self.items)))

    def _open(self, place: int) -> None:
        self.place = place
        self.step = 0
        while (
            self.criterion and self.item and (self.item.name, self.criterion.name) in self.answers
        ):
            self.step += 1
