"""What a bee holds in one hand, as its process knows it; the board knows it from `Hand`."""

from __future__ import annotations

from workerbee.hand import Hand
from workerbee.job import Claim, Outcome

NOTHING = Claim(0, 0)  # in no row


class Grip:
    """A claim, the seconds that those of its jobs took that are through, and whether it was made `ahead`, while another
    was worked through."""

    def __init__(self, hand: Hand) -> None:
        self.hand = hand
        self.claim = NOTHING
        self.seconds: list[float] = []
        self.ahead = False

    def hold(self, claim: Claim, since: float, *, ahead: bool = False) -> None:
        """Go on to `claim`, asked for at the monotonic second `since`, and let the board say so."""
        self.claim, self.seconds, self.ahead = claim, [], ahead
        self.hand.hold(claim, since)

    def let_go(self) -> None:
        """The claim is gone, and its row."""
        self.claim, self.seconds = NOTHING, []
        self.hand.clear()

    @property
    def is_through(self) -> bool:
        return len(self.seconds) == len(self.claim.jobs)

    def outcomes(self) -> list[Outcome]:
        """What is done."""
        return [Outcome(job.pos, seconds) for job, seconds in zip(self.claim.jobs, self.seconds, strict=False)]
