"""What differs between kinds of servers: addresses, members, refusals, answers, and how they are shown who asks."""
