"""What the scripts of the lecture share: chapters, the style of their pictures, and the page that shows them.

Each script in ``examples/lecture`` makes one `Chapter`; ``onepass lecture`` runs them all.
"""

from onepass.lecture.chapter import Chapter, Picture

__all__ = ["Chapter", "Picture"]
