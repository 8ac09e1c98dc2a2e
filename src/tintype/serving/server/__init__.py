"""A trained model as a web service: a page for people, and two interfaces for programs."""
