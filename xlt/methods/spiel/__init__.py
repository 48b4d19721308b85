from xlt.methods.spiel.method import SCHEMA, Spiel, SpielConfig

__all__ = ["SCHEMA", "Spiel", "SpielConfig"]
