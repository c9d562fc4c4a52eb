"""Keys that clients hold: how one is made, where they are kept, and what each may use.

Here belong the keys file and the command that writes it, and the judgement of all keys of a configuration: which names
each may send, whose limits bind it, until when. How a request's key is looked up is in `gateway.proxy.asked`.
"""
