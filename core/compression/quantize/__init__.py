"""The methods of the family `quantize`."""
