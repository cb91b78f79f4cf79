"""What users import and type."""

from modelpress.exporter import export

__all__ = ["export"]
