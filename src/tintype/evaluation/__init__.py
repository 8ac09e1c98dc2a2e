"""From predictions to figures that say how far they can be trusted."""
