"""Networks: the layer language, the zoo, building, summarising, and weights from files."""
