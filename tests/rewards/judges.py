"""Judges for tests: one with a table of scores, and one that notes what it is asked."""


class TableJudge:
    """Scores that follow from the length of the texts, so that an oracle can repeat them."""

    @staticmethod
    def of(*texts: str) -> float:
        return (7 * sum(map(len, texts)) % 11) / 10

    def score_answers(self, items):
        return [self.of(i.question, i.expected, i.answer) for i in items]

    def score_storage(self, items):
        return [self.of(i.question, i.expected, i.entry) for i in items]

    def score_relevance(self, items):
        return [self.of(i.question, i.expected, *i.entries) for i in items]


class ListeningJudge(TableJudge):
    """Notes what it is told and what it is asked."""

    def __init__(self):
        self.told, self.asked = [], []

    def ask_ahead(self, answers=(), storage=(), relevance=()):
        self.told += [*answers, *storage, *relevance]

    def score_answers(self, items):
        self.asked += items
        return super().score_answers(items)

    def score_storage(self, items):
        self.asked += items
        return super().score_storage(items)

    def score_relevance(self, items):
        self.asked += items
        return super().score_relevance(items)
