"""Several processes that train one network together: who they are, what they tell each other, who is still there.

Launching and rendezvous are torchrun's, collectives are torch.distributed's.
"""
