"""The core of consensus alone, on an event queue, and committees with faulty members."""
